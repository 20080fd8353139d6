"""What each verb of `bench` does; imported only when that verb runs."""
