//! Compiles the wire types without needing `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let protos = ["proto/convoy/v1/coordinator.proto", "proto/convoy/v1/ring.proto"];
    let descriptors = protox::compile(protos, ["proto"])?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
