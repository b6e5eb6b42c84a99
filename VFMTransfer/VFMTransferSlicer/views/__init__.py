"""The comparison's views; what they change of the user's scene is given back."""
