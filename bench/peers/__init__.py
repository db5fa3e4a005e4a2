"""What we are measured against: the same networks and the same work, as others write them."""
