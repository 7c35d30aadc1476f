"""What a cached tile is: formats, byte layout, sizes, and the reference in plain PyTorch."""
