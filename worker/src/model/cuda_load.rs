//! Loads libtorch's CUDA half into the process.
//!
//! Nothing in the program names a symbol of `libtorch_cuda.so`, so a linker that drops unused
//! libraries leaves it out, and libtorch then says that there is no CUDA. Opening it by name runs
//! its registration. Done only when a GPU is asked for: it costs a second and much address space.
#![expect(unsafe_code, reason = "dlopen has no safe form")]

use std::ffi::CStr;
use std::sync::OnceLock;

/// Loads the library once; the error is the dynamic linker's text.
pub(super) fn load() -> Result<(), String> {
    static OUTCOME: OnceLock<Result<(), String>> = OnceLock::new();
    OUTCOME.get_or_init(|| open(c"libtorch_cuda.so")).clone()
}

fn open(name: &CStr) -> Result<(), String> {
    // SAFETY: `name` is a valid C string that outlives the call. The library's initialisers are
    // libtorch's own and meant to run at load time, from any thread. The handle is never closed.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if !handle.is_null() {
        return Ok(());
    }
    // SAFETY: dlerror returns null or a C string that is valid until the next dl call of this
    // thread; it is copied at once.
    let text = unsafe {
        let message = libc::dlerror();
        (!message.is_null()).then(|| CStr::from_ptr(message).to_string_lossy().into_owned())
    };
    Err(text.unwrap_or_else(|| "the dynamic linker gave no reason".to_owned()))
}
