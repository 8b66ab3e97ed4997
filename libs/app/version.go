package app

// Version is the release that this binary was built from; the build sets it.
var Version = "development"
