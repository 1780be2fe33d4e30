//! The pictures' file names: length 2 and bytes for each, in the order of their numbers.
//!
//! The class folder is not repeated, since the label says it. Names lie apart from the index,
//! because nothing but a message about one picture ever needs them.

/// Appends a name; one that is longer than the format can hold is cut.
pub(super) fn append(out: &mut Vec<u8>, name: &str) {
    let mut end = name.len().min(usize::from(u16::MAX));
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    out.extend_from_slice(&(end as u16).to_le_bytes());
    out.extend_from_slice(&name.as_bytes()[..end]);
}

/// The name at a place; `None` if the bytes do not reach that far.
pub(super) fn name_at(names: &[u8], image: u64) -> Option<String> {
    let mut rest = names;
    for at in 0..=image {
        let (length, behind) = rest.split_first_chunk::<2>()?;
        let (name, behind) = behind.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
        if at == image {
            return Some(String::from_utf8_lossy(name).into_owned());
        }
        rest = behind;
    }
    None
}
