//! The kernel within a bzImage, for [`guest_image::prepare`], which lies below the crate that knows how to unpack one.

use std::fs::File;
use std::io;
use std::path::Path;

use vmm::boot::Kernel;

/// Writes the ELF file that machines are to boot in place of a kernel; `false` where there is none that can be entered as it is.
pub(crate) fn unpack(path: &Path, out: &mut File) -> Result<bool, String> {
    let open = || File::open(path).map_err(|error| format!("read the kernel {}: {error}", path.display()));
    match Kernel::open(open()?, path).map_err(|error| error.to_string())? {
        // What is packed in a way that is not known here unpacks itself in the guest.
        Kernel::BzImage(packed) if packed.unpack(out).is_err() => return Ok(false),
        Kernel::BzImage(_) => {}
        Kernel::Pvh(_) => {
            let copied = io::copy(&mut open()?, out);
            copied.map_err(|error| format!("copy the kernel {}: {error}", path.display()))?;
        }
    }
    let unpacked = out.try_clone().map_err(|error| format!("look at the unpacked kernel: {error}"))?;
    Ok(matches!(Kernel::open(unpacked, path), Ok(Kernel::Pvh(_))))
}
