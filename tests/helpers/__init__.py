"""What several tests and benchmarks share: model folders, servers, recordings, the reference's cases."""
