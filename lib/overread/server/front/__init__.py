"""What a browser sees at the server's own address. Nothing is loaded from elsewhere."""
