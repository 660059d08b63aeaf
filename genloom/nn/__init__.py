"""What papers merely use: layers and blocks shared by two models or more."""
