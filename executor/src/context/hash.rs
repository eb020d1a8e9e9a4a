//! BLAKE3 of large files on several cores: the left and right subtrees of the hash tree are read and hashed at once.
//!
//! The result is the plain BLAKE3 of the content (BLAKE3 paper, section 2.1: the left subtree is the largest power of two
//! of chunks), whatever the number of threads.

use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root,
};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Smaller files are hashed by one thread.
pub(super) const PARALLEL_FROM: u64 = 8 << 20;
/// Read at once.
const BUFFER: usize = 256 * 1024;

/// Digest of the first `size` bytes.
pub(super) fn hash_parallel(file: &File, size: u64) -> io::Result<[u8; 32]> {
    let left = left_subtree_len(size);
    let (one, other) = both(file, (0, left), (left, size - left), 1)?;
    Ok(*merge_subtrees_root(&one, &other, Mode::Hash).as_bytes())
}

type Part = (u64, u64);

fn both(
    file: &File,
    left: Part,
    right: Part,
    splits: u32,
) -> io::Result<(ChainingValue, ChainingValue)> {
    std::thread::scope(|scope| {
        let other = scope.spawn(move || subtree(file, right, splits));
        let one = subtree(file, left, splits)?;
        Ok((
            one,
            other
                .join()
                .map_err(|_| io::Error::other("a hashing thread panicked"))??,
        ))
    })
}

/// The chaining value of a subtree: `(offset, length)`. Large ones are split once more, into four threads in all.
fn subtree(file: &File, (offset, length): Part, splits: u32) -> io::Result<ChainingValue> {
    if splits > 0 && length >= PARALLEL_FROM {
        let left = left_subtree_len(length);
        let (one, other) = both(
            file,
            (offset, left),
            (offset + left, length - left),
            splits - 1,
        )?;
        return Ok(merge_subtrees_non_root(&one, &other, Mode::Hash));
    }
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(offset);
    let mut buffer = vec![0; BUFFER];
    let (mut at, end) = (offset, offset + length);
    while at < end {
        let want = usize::try_from(end - at).map_or(BUFFER, |left| left.min(BUFFER));
        match file.read_at(&mut buffer[..want], at) {
            Ok(0) => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the file became shorter while it was being read",
                ));
            }
            Ok(got) => {
                hasher.update(&buffer[..got]);
                at += got as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(hasher.finalize_non_root())
}

#[cfg(test)]
mod tests {
    use super::{PARALLEL_FROM, hash_parallel};
    use std::io::Write;

    #[test]
    fn equals_the_plain_hash() {
        for size in [
            PARALLEL_FROM,
            PARALLEL_FROM + 1,
            2 * PARALLEL_FROM + 1023,
            5 * PARALLEL_FROM - 1,
        ] {
            let data: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&data).unwrap();
            assert_eq!(
                hash_parallel(&file, size).unwrap(),
                *blake3::hash(&data).as_bytes(),
                "{size}"
            );
        }
    }
}
