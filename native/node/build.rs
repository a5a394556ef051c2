//! What napi-rs wants of a build.

fn main() {
    napi_build::setup();
}
