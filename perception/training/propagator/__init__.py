"""Training of the learned propagator: clips with exact ids, rolled out as the node will step through them."""
