//! Extended attributes in layers: which are kept, and how a list of them is encoded in an index.
//!
//! The encoding: name length u32, value length u32 (little-endian), name, value, repeated, sorted by name.

/// Whether a layer keeps an xattr: capabilities and `user.*`, never overlayfs' own, which would redirect or uncover files,
/// nor the one in which owners are recorded.
pub(crate) fn keeps_xattr(name: &[u8]) -> bool {
    name == b"security.capability"
        || (name.starts_with(b"user.")
            && !name.starts_with(b"user.overlay.")
            && name != sandbox::OWNER_ATTRIBUTE.as_bytes()
            && !name.contains(&b'='))
}

/// The xattrs that are kept.
pub(crate) fn kept_xattrs(xattrs: &[(Vec<u8>, Vec<u8>)]) -> Vec<(Vec<u8>, Vec<u8>)> {
    xattrs
        .iter()
        .filter(|(name, _)| keeps_xattr(name))
        .cloned()
        .collect()
}

/// Encodes xattrs, sorted by name.
pub(crate) fn encode_xattrs(xattrs: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut sorted: Vec<&(Vec<u8>, Vec<u8>)> = xattrs.iter().collect();
    sorted.sort();
    let mut out = Vec::new();
    for (name, value) in sorted {
        out.extend_from_slice(&length(name.len()).to_le_bytes());
        out.extend_from_slice(&length(value.len()).to_le_bytes());
        out.extend_from_slice(name);
        out.extend_from_slice(value);
    }
    out
}

/// Decodes xattrs; stops at the first that is cut off.
pub(crate) fn decode_xattrs(mut list: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut xattrs = Vec::new();
    while let Some((head, rest)) = list.split_at_checked(8) {
        let (name_len, value_len) = (size_at(head, 0), size_at(head, 4));
        let Some((name, rest)) = rest.split_at_checked(name_len) else {
            break;
        };
        let Some((value, rest)) = rest.split_at_checked(value_len) else {
            break;
        };
        xattrs.push((name.to_vec(), value.to_vec()));
        list = rest;
    }
    xattrs
}

fn length(len: usize) -> u32 {
    u32::try_from(len)
        .expect("BUG: the kernel bounds extended attributes to 64 KiB, tar headers to 1 MiB")
}

fn size_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("BUG: four bytes")) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_sandbox_keeps_for_itself_is_in_no_layer() {
        for (name, kept) in [
            ("security.capability", true),
            ("user.comment", true),
            ("user.kiln.owners", true),
            (sandbox::OWNER_ATTRIBUTE, false),
            ("user.overlay.opaque", false),
            ("trusted.overlay.opaque", false),
            ("user.a=b", false),
        ] {
            assert_eq!(keeps_xattr(name.as_bytes()), kept, "{name}");
        }
    }
}
