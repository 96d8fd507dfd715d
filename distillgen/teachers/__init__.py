"""Teachers, one file a provider; a file that starts with an underscore is shared by several."""
