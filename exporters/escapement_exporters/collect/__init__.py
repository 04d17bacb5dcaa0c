"""`escapement collect`: the servers, and the journal in which what comes in is safe."""
