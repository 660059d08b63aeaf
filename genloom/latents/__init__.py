"""What people do with a trained generator: walk between its pictures, find one in it, mix two, and pull its sliders."""
