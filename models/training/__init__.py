"""How each shipped model was made: data, training, checks, card and plots. Not imported by the server."""
