//! Lets the binary find libtorch where it was built, without `LD_LIBRARY_PATH`.

use std::path::Path;

fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    let Some(libtorch) = std::env::var_os("LIBTORCH") else { return };
    // The link `.libtorch` of one clone must not be what a copied binary depends on.
    let libtorch = Path::new(&libtorch).canonicalize().unwrap_or_else(|_| libtorch.into());
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", libtorch.join("lib").display());
    println!("cargo:rustc-link-arg=-Wl,--disable-new-dtags");
}
