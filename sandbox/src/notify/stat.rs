//! The structures of the stat family, filled from what statx(2) tells.

use super::calls::Form;
use super::sys::STATX_LEN;

/// STATX_BASIC_STATS.
pub(super) const BASIC: u32 = 0x7ff;

/// The kernel's `struct statx`.
pub(super) struct Statx(pub(super) [u8; STATX_LEN]);

impl Statx {
    fn u16(&self, at: usize) -> u16 {
        let [low, high] = [self.0[at], self.0[at + 1]];
        u16::from_ne_bytes([low, high])
    }

    fn u32(&self, at: usize) -> u32 {
        let bytes = self.0[at..at + 4].try_into();
        u32::from_ne_bytes(bytes.expect("BUG: four bytes"))
    }

    fn u64(&self, at: usize) -> u64 {
        let bytes = self.0[at..at + 8].try_into();
        u64::from_ne_bytes(bytes.expect("BUG: eight bytes"))
    }

    pub(super) fn mode(&self) -> u32 {
        self.u16(28).into()
    }

    /// Seconds and nanoseconds.
    fn time(&self, at: usize) -> (u64, u32) {
        (self.u64(at), self.u32(at + 8))
    }

    /// The kernel's encoding of a device number.
    fn device(&self, at: usize) -> u64 {
        let (major, minor) = (u64::from(self.u32(at)), u64::from(self.u32(at + 4)));
        (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
    }

    pub(super) fn set_owner(&mut self, (uid, gid): (u32, u32)) {
        self.0[20..24].copy_from_slice(&uid.to_ne_bytes());
        self.0[24..28].copy_from_slice(&gid.to_ne_bytes());
    }

    /// The structure of a form; `None` when a value has no room in it.
    pub(super) fn as_form(&self, form: Form) -> Option<Vec<u8>> {
        match form {
            Form::Statx => Some(self.0.to_vec()),
            Form::Native if cfg!(target_arch = "x86_64") => Some(self.x86_64()),
            Form::Native => Some(self.aarch64()),
            Form::Compat64 => Some(self.compat64(cfg!(target_arch = "x86_64"))),
            Form::Compat => self.compat(),
        }
    }

    fn x86_64(&self) -> Vec<u8> {
        let mut out = Fields::default();
        out.u64(self.device(136)).u64(self.u64(32));
        out.u64(self.u32(16).into()).u32(self.mode());
        out.u32(self.u32(20)).u32(self.u32(24)).u32(0);
        out.u64(self.device(128)).u64(self.u64(40));
        out.u64(self.u32(4).into()).u64(self.u64(48));
        out.long_times(self).u64(0).u64(0).u64(0);
        out.0
    }

    fn aarch64(&self) -> Vec<u8> {
        let mut out = Fields::default();
        out.u64(self.device(136)).u64(self.u64(32));
        out.u32(self.mode()).u32(self.u32(16));
        out.u32(self.u32(20)).u32(self.u32(24));
        out.u64(self.device(128)).u64(0).u64(self.u64(40));
        out.u32(self.u32(4)).u32(0).u64(self.u64(48));
        out.long_times(self).u32(0).u32(0);
        out.0
    }

    /// i386 packs it, ARM aligns its long fields.
    fn compat64(&self, packed: bool) -> Vec<u8> {
        let mut out = Fields::default();
        out.u64(self.device(136)).u32(0);
        out.u32(low(self.u64(32)))
            .u32(self.mode())
            .u32(self.u32(16));
        out.u32(self.u32(20)).u32(self.u32(24));
        out.u64(self.device(128)).u32(0);
        if !packed {
            out.u32(0);
        }
        out.u64(self.u64(40)).u32(self.u32(4));
        if !packed {
            out.u32(0);
        }
        out.u64(self.u64(48));
        out.short_times(self).u64(self.u64(32));
        out.0
    }

    /// The oldest that is watched; large values are an error of the call, which the kernel finds itself.
    fn compat(&self) -> Option<Vec<u8>> {
        let small = |value: u64| u32::try_from(value).ok();
        let short = |id: u32| u16::try_from(id).unwrap_or(super::OVERFLOW_ID);
        let mut out = Fields::default();
        out.u32(small(self.device(136))?)
            .u32(small(self.u64(32))?)
            .u16(self.u16(28))
            .u16(u16::try_from(self.u32(16)).ok()?)
            .u16(short(self.u32(20)))
            .u16(short(self.u32(24)))
            .u32(small(self.device(128))?);
        let size = i32::try_from(self.u64(40)).ok()?;
        out.u32(size.cast_unsigned())
            .u32(self.u32(4))
            .u32(small(self.u64(48))?);
        out.short_times(self).u32(0).u32(0);
        Some(out.0)
    }
}

fn low(value: u64) -> u32 {
    (value & 0xffff_ffff) as u32
}

/// Bytes of a structure, field by field.
#[derive(Default)]
struct Fields(Vec<u8>);

impl Fields {
    fn u16(&mut self, value: u16) -> &mut Self {
        self.0.extend_from_slice(&value.to_ne_bytes());
        self
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend_from_slice(&value.to_ne_bytes());
        self
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend_from_slice(&value.to_ne_bytes());
        self
    }

    /// Access, modification, change.
    fn long_times(&mut self, stat: &Statx) -> &mut Self {
        for at in [64, 112, 96] {
            let (seconds, nanoseconds) = stat.time(at);
            self.u64(seconds).u64(nanoseconds.into());
        }
        self
    }

    fn short_times(&mut self, stat: &Statx) -> &mut Self {
        for at in [64, 112, 96] {
            let (seconds, nanoseconds) = stat.time(at);
            self.u32(low(seconds)).u32(nanoseconds);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::super::sys;
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn structures_have_the_kernels_lengths() {
        let stat = Statx([0; STATX_LEN]);
        assert_eq!(stat.x86_64().len(), 144);
        assert_eq!(stat.aarch64().len(), 128);
        assert_eq!(stat.compat64(true).len(), 96);
        assert_eq!(stat.compat64(false).len(), 104);
        assert_eq!(stat.compat().map(|bytes| bytes.len()), Some(64));
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn fields_lie_where_programs_look_for_them() {
        for path in ["/", "/dev/null", "/proc/self/exe"] {
            let file = std::fs::File::open(path).unwrap();
            let mut stat = Statx(sys::statx(file.as_fd(), 0, BASIC).unwrap());
            let meta = std::fs::metadata(path).unwrap();
            let native = stat.as_form(Form::Native).unwrap();
            let long = |at: usize| u64::from_ne_bytes(native[at..at + 8].try_into().unwrap());
            let word = |at: usize| u32::from_ne_bytes(native[at..at + 4].try_into().unwrap());
            assert_eq!(
                (long(0), long(8), long(16)),
                (meta.dev(), meta.ino(), meta.nlink())
            );
            assert_eq!(
                (word(24), word(28), word(32)),
                (meta.mode(), meta.uid(), meta.gid())
            );
            assert_eq!((long(40), long(48)), (meta.rdev(), meta.size()));
            assert_eq!((long(56), long(64)), (meta.blksize(), meta.blocks()));
            let times = [
                meta.atime(),
                meta.atime_nsec(),
                meta.mtime(),
                meta.mtime_nsec(),
                meta.ctime(),
                meta.ctime_nsec(),
            ];
            for (index, time) in times.into_iter().enumerate() {
                assert_eq!(long(72 + 8 * index), time.cast_unsigned(), "{path} {index}");
            }
            stat.set_owner((33, 70_000));
            let old = stat.as_form(Form::Compat).unwrap();
            assert_eq!(&old[12..16], [33, 0, 0xfe, 0xff], "large ids overflow");
        }
    }
}
