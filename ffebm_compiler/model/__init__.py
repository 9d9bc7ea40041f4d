"""What a converted model is made of: how it runs, its gains, what is checked at each call, its blocks as users see them."""
