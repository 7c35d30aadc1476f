"""Cache formats on the plane of attention-output error against stored bits."""
