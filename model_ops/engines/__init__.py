"""The engines that answer model calls, the driver that keeps them full, the pool around them."""
