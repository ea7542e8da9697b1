"""Programs that play the other side, for the demo and the tests alike."""
