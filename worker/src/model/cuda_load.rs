//! Loads libtorch's CUDA half into the process.
//!
//! Nothing in the program names a symbol of `libtorch_cuda.so`, so a linker that drops unused
//! libraries leaves it out, and libtorch then says that there is no CUDA. Opening it by name runs
//! its registration. Done only when a GPU is asked for: it costs a second and much address space.
#![expect(unsafe_code, reason = "dlopen and what it finds have no safe form")]

use std::ffi::{CStr, c_int, c_uint, c_void};
use std::sync::OnceLock;

/// Loads the library once; the error is the dynamic linker's text.
pub(super) fn load() -> Result<(), String> {
    static OUTCOME: OnceLock<Result<(), String>> = OnceLock::new();
    OUTCOME.get_or_init(|| open(c"libtorch_cuda.so")).clone()
}

/// The compute capability (major, minor) of one GPU, by the driver's own library; none if there is
/// no driver or no such GPU.
pub(super) fn compute_capability(index: usize) -> Option<(i32, i32)> {
    type Init = unsafe extern "C" fn(c_uint) -> c_int;
    type Get = unsafe extern "C" fn(*mut c_int, c_int) -> c_int;
    type Attribute = unsafe extern "C" fn(*mut c_int, c_int, c_int) -> c_int;
    // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR.
    const MAJOR: c_int = 75;
    const MINOR: c_int = 76;
    let index = c_int::try_from(index).ok()?;
    // SAFETY: the name is a valid C string. The library is the driver's; it is never closed, so what
    // is found in it stays valid.
    let library = unsafe { libc::dlopen(c"libcuda.so.1".as_ptr(), libc::RTLD_NOW) };
    if library.is_null() {
        return None;
    }
    let find = |name: &CStr| -> Option<*mut c_void> {
        // SAFETY: `library` is an open handle and `name` a valid C string.
        let symbol = unsafe { libc::dlsym(library, name.as_ptr()) };
        (!symbol.is_null()).then_some(symbol)
    };
    let (init, get, attribute) =
        (find(c"cuInit")?, find(c"cuDeviceGet")?, find(c"cuDeviceGetAttribute")?);
    // SAFETY: these are the signatures in the driver's header (`cuda.h`); none of them has changed
    // since CUDA 5, and all take plain integers and pointers to one `int` that outlives the call.
    unsafe {
        let init: Init = std::mem::transmute::<*mut c_void, Init>(init);
        let get: Get = std::mem::transmute::<*mut c_void, Get>(get);
        let attribute: Attribute = std::mem::transmute::<*mut c_void, Attribute>(attribute);
        let (mut device, mut major, mut minor) = (0, 0, 0);
        let fine = init(0) == 0
            && get(&mut device, index) == 0
            && attribute(&mut major, MAJOR, device) == 0
            && attribute(&mut minor, MINOR, device) == 0;
        fine.then_some((major, minor))
    }
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
