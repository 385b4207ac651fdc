"""How components are found, named, configured and recorded."""
