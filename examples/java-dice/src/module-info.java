module dice {
    requires jdk.httpserver;
    // The algorithms behind RandomGenerator.getDefault: jlink takes what is required, and no more.
    requires jdk.random;
}
