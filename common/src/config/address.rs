//! What names a place: object-store URLs, `host:port`, and the run's name.

use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};

use url::Url;

/// Why a text is not what it should be, and what to write instead.
#[derive(Debug, PartialEq)]
pub(super) struct Wrong {
    pub(super) what: String,
    pub(super) hint: Option<String>,
}

impl Wrong {
    fn new(what: impl Into<String>, hint: &str) -> Self {
        Self { what: what.into(), hint: Some(hint.to_owned()) }
    }
}

const PLACES: &str = "write a folder, file:///path or s3://bucket/prefix";

/// The absolute URL of a store: `s3://bucket/prefix` or `file:///path`; a plain path counts from
/// `folder`. The outcome has no slash at its end and is unchanged by another call.
pub(super) fn store_url(text: &str, folder: Option<&Path>) -> Result<String, Wrong> {
    if text.is_empty() {
        return Err(Wrong::new("is empty", PLACES));
    }
    if text.contains('\0') {
        return Err(Wrong::new("contains a zero byte", PLACES));
    }
    let Some((scheme, _)) = text.split_once("://") else {
        return plain_path(text, folder);
    };
    let url =
        Url::parse(text).map_err(|error| Wrong::new(format!("is not a URL: {error}"), PLACES))?;
    if !url.username().is_empty() || url.password().is_some() {
        let hint = "give credentials in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY";
        return Err(Wrong::new("has credentials in it", hint));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(Wrong::new("has a ? or # part", PLACES));
    }
    match url.scheme() {
        "s3" if url.host_str().is_none_or(str::is_empty) => {
            Err(Wrong::new("names no bucket", "write s3://bucket/prefix"))
        }
        "s3" if url.port().is_some() => {
            let hint = "the endpoint is AWS_ENDPOINT_URL; write s3://bucket/prefix";
            Err(Wrong::new("has a port", hint))
        }
        "file" => match url.to_file_path() {
            Ok(path) => file_url(&path),
            Err(()) => Err(Wrong::new(
                "is not an absolute path",
                "write file:///path with three slashes, or a plain path",
            )),
        },
        "s3" => Ok(url.as_str().trim_end_matches('/').to_owned()),
        _ => Err(Wrong::new(format!("has the unknown scheme {scheme:?}"), PLACES)),
    }
}

fn plain_path(text: &str, folder: Option<&Path>) -> Result<String, Wrong> {
    if text.starts_with('~') {
        let hint = "write the whole path: `~` is for shells to expand";
        return Err(Wrong::new("starts with ~", hint));
    }
    if text.starts_with("s3:") || text.starts_with("file:") {
        return Err(Wrong::new("lacks the two slashes of a URL", PLACES));
    }
    let path = Path::new(text);
    if path.is_absolute() {
        return file_url(path);
    }
    match folder {
        Some(folder) => file_url(&folder.join(path)),
        None => Err(Wrong::new("is relative, and there is no current folder", PLACES)),
    }
}

/// The absolute path of a folder of this machine, which may not exist; a relative one counts from
/// `folder`. The outcome is unchanged by another call.
pub(super) fn local_folder(text: &str, folder: Option<&Path>) -> Result<String, Wrong> {
    const FOLDER: &str = "write the path of a folder";
    if text.is_empty() {
        return Err(Wrong::new("is empty", FOLDER));
    }
    if text.contains('\0') {
        return Err(Wrong::new("contains a zero byte", FOLDER));
    }
    if text.contains("://") {
        return Err(Wrong::new("is a URL", "write the path of a folder on a local disk"));
    }
    if text.starts_with('~') {
        let hint = "write the whole path: `~` is for shells to expand";
        return Err(Wrong::new("starts with ~", hint));
    }
    let path = match folder {
        _ if Path::new(text).is_absolute() => PathBuf::from(text),
        Some(folder) => folder.join(text),
        None => return Err(Wrong::new("is relative, and there is no current folder", FOLDER)),
    };
    let clean = cleaned(&path);
    if clean == Path::new("/") {
        return Err(Wrong::new("is the root of the file system", FOLDER));
    }
    match clean.into_os_string().into_string() {
        Ok(path) => Ok(path),
        Err(_) => Err(Wrong::new("lies in a folder whose name is not UTF-8", FOLDER)),
    }
}

/// An absolute path without `.`, `..` and doubled slashes.
fn cleaned(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::ParentDir => {
                clean.pop();
            }
            Component::Normal(name) => clean.push(name),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

fn file_url(path: &Path) -> Result<String, Wrong> {
    let clean = cleaned(path);
    if clean == Path::new("/") {
        return Err(Wrong::new("is the root of the file system", PLACES));
    }
    Url::from_file_path(&clean)
        .map(String::from)
        .map_err(|()| Wrong::new("is not an absolute path", PLACES))
}

/// A `host:port` on which to listen.
#[derive(Debug, PartialEq)]
pub(super) struct Bind {
    /// Only this machine can reach it.
    pub(super) loopback: bool,
}

/// Checks a `host:port`; no name is resolved, and a name other than `localhost` counts as beyond
/// loopback.
pub(super) fn bind(text: &str) -> Result<Bind, Wrong> {
    const HINT: &str = "write host:port, such as \"127.0.0.1:7171\" or \"[::1]:7171\"";
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(Wrong::new(format!("must be host:port, is {text:?}"), HINT));
    };
    if port.is_empty()
        || !port.bytes().all(|it| it.is_ascii_digit())
        || port.parse::<u16>().is_err()
    {
        return Err(Wrong::new(format!("must have a port of 0 to 65535, is {text:?}"), HINT));
    }
    let bracketed = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    let address = match bracketed {
        Some(inner) => inner.parse().map(IpAddr::V6).ok(),
        None => host.parse().map(IpAddr::V4).ok(),
    };
    if let Some(address) = address {
        return Ok(Bind { loopback: address.is_loopback() });
    }
    let is_name = !host.is_empty()
        && host.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'-' || it == b'.')
        && !host.bytes().all(|it| it.is_ascii_digit() || it == b'.');
    if is_name {
        return Ok(Bind { loopback: host.eq_ignore_ascii_case("localhost") });
    }
    Err(Wrong::new(format!("must be host:port, is {text:?}"), HINT))
}

/// Checks a run's name, which becomes part of paths and log lines.
pub(super) fn name(text: &str) -> Result<(), Wrong> {
    const HINT: &str = "use 1 to 64 of a-z A-Z 0-9 - _ . and start with a letter or digit";
    let allowed = |it: u8| it.is_ascii_alphanumeric() || matches!(it, b'-' | b'_' | b'.');
    let good = (1..=64).contains(&text.len())
        && text.bytes().all(allowed)
        && text.as_bytes()[0].is_ascii_alphanumeric();
    if good { Ok(()) } else { Err(Wrong::new(format!("cannot be {text:?}"), HINT)) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at_home(text: &str) -> Result<String, Wrong> {
        store_url(text, Some(Path::new("/home/me")))
    }

    #[test]
    fn a_plain_path_counts_from_the_current_folder() {
        for (text, url) in [
            ("runs/a", "file:///home/me/runs/a"),
            ("./runs//a/", "file:///home/me/runs/a"),
            ("../runs", "file:///home/runs"),
            (".", "file:///home/me"),
            ("/data/with space", "file:///data/with%20space"),
            ("file:///data/x/", "file:///data/x"),
            ("file:///data/with%20space", "file:///data/with%20space"),
            ("s3://bucket", "s3://bucket"),
            ("s3://bucket/a/b/", "s3://bucket/a/b"),
        ] {
            assert_eq!(at_home(text).as_deref(), Ok(url), "{text}");
        }
    }

    #[test]
    fn what_is_no_place_for_a_store_is_refused() {
        for text in [
            "",
            "~/runs",
            "/",
            "/..",
            "http://host/x",
            "gs://bucket/x",
            "s3://",
            "s3:///x",
            "s3:bucket",
            "s3://bucket:9000/x",
            "s3://key:secret@bucket/x",
            "s3://bucket/x?y=1",
            "file://host/x",
            "file:x",
            "a\0b",
        ] {
            let wrong = at_home(text).expect_err(text);
            assert!(wrong.hint.is_some());
            assert!(!wrong.what.contains("secret"), "{}", wrong.what);
        }
    }

    #[test]
    fn a_folder_of_this_machine_counts_from_the_current_one() {
        let home = Some(Path::new("/home/me"));
        for (text, path) in [
            ("/fast//cache/", "/fast/cache"),
            ("cache", "/home/me/cache"),
            ("./none", "/home/me/none"),
        ] {
            assert_eq!(local_folder(text, home).as_deref(), Ok(path), "{text}");
            assert_eq!(local_folder(path, None).as_deref(), Ok(path), "{path}");
        }
        for text in ["", "/", "~/cache", "s3://bucket/cache", "file:///cache", "a\0b"] {
            assert!(local_folder(text, home).expect_err(text).hint.is_some());
        }
        assert!(local_folder("cache", None).is_err());
    }

    #[test]
    fn only_this_machines_own_addresses_are_loopback() {
        for (text, loopback) in [
            ("127.0.0.1:7171", true),
            ("127.9.9.9:0", true),
            ("[::1]:7171", true),
            ("localhost:1", true),
            ("0.0.0.0:7171", false),
            ("[::]:7171", false),
            ("10.0.0.5:7171", false),
            ("node-3.cluster:7171", false),
            ("localhost.evil:7171", false),
        ] {
            assert_eq!(bind(text), Ok(Bind { loopback }), "{text}");
        }
        for text in [
            "",
            "7171",
            ":7171",
            "host",
            "host:",
            "host:65536",
            "host:+1",
            "::1:7171",
            "a b:1",
            "300.0.0.1:1",
            "[127.0.0.1]:1",
            "[::1:1",
        ] {
            assert!(bind(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_name_can_stand_in_a_path() {
        for text in ["a", "alexnet-2012_v1.0", "9"] {
            assert_eq!(name(text), Ok(()));
        }
        for text in ["", ".", "..", "-a", "a/b", "a b", "é", &"x".repeat(65)] {
            assert!(name(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_resolved_url_resolves_to_itself(text in ".{1,40}") {
            if let Ok(url) = at_home(&text) {
                prop_assert_eq!(store_url(&url, None), Ok(url));
            }
        }
    }
}
