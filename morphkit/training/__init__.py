"""The flow that is trained on a coupling's draws: loss, scaling, loop; knows no experiment."""
