"""A recorded drive through the pipeline again: exactly, as it was decided on the road, or as it might have been."""
