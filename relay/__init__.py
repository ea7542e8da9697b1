"""One mail at a time: hear, decide, pass on."""
