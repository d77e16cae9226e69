//! One module: a file that may be packed, in which it says what it depends on.

use crate::error::Error;
use elf::ElfBytes;
use elf::endian::AnyEndian;
use flate2::read::MultiGzDecoder;
use lzma_rust2::XzReader;
use std::fs;
use std::io::Read;
use std::path::Path;

/// A module that a guest needs is smaller; what is larger is none.
const MOST: u64 = 64 << 20;
/// How files of modules may be called behind the module's name, as kbuild's `CONFIG_MODULE_COMPRESS_*` have it.
const ENDINGS: [&str; 4] = [".ko", ".ko.gz", ".ko.xz", ".ko.zst"];

/// The name of the module in a file of that name, as the kernel has it: with underscores. `None`: it is no module.
pub(crate) fn name_of(file: &str) -> Option<String> {
    ENDINGS.iter().find_map(|ending| file.strip_suffix(ending)).map(plain)
}

/// A module's name with underscores, which file names have as hyphens at times.
pub(crate) fn plain(name: &str) -> String {
    name.replace('-', "_")
}

/// Reads a module, unpacked.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let packed = fs::read(path).map_err(Error::io("read", path))?;
    let wrong = |reason: String| Error::Module { path: path.to_owned(), reason };
    let unpack = |from: &mut dyn Read| {
        let mut bytes = Vec::new();
        let count = from.take(MOST).read_to_end(&mut bytes).map_err(|error| wrong(format!("unpack it: {error}")))?;
        if count as u64 == MOST { Err(wrong("it unpacks to 64 MiB or more".to_owned())) } else { Ok(bytes) }
    };
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("gz") => unpack(&mut MultiGzDecoder::new(&packed[..])),
        Some("xz") => unpack(&mut XzReader::new(&packed[..], true)),
        Some("zst") => {
            let mut from =
                zstd::stream::read::Decoder::with_buffer(&packed[..]).map_err(|error| wrong(error.to_string()))?;
            unpack(&mut from)
        }
        _ => Ok(packed),
    }
}

/// The modules that one needs to be loaded before it, by its own word (`depends=` of its section `.modinfo`): what modules.dep is made from, and
/// what a package has that is not installed.
pub(crate) fn dependencies(module: &[u8], path: &Path) -> Result<Vec<String>, Error> {
    let wrong = |reason: String| Error::Module { path: path.to_owned(), reason };
    let parsed = ElfBytes::<AnyEndian>::minimal_parse(module).map_err(|error| wrong(error.to_string()))?;
    let section = parsed.section_header_by_name(".modinfo").map_err(|error| wrong(error.to_string()))?;
    let section = section.ok_or_else(|| wrong("it has no section .modinfo".to_owned()))?;
    let (info, _) = parsed.section_data(&section).map_err(|error| wrong(error.to_string()))?;
    let fields = info.split(|byte| *byte == 0).filter_map(|field| std::str::from_utf8(field).ok());
    let depends = fields.filter_map(|field| field.strip_prefix("depends="));
    Ok(depends.flat_map(|names| names.split(',')).filter(|name| !name.is_empty()).map(plain).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    #[test]
    fn names_are_the_kernels() {
        assert_eq!(name_of("virtio-rng.ko.xz").as_deref(), Some("virtio_rng"));
        assert_eq!(name_of("erofs.ko").as_deref(), Some("erofs"));
        assert_eq!(name_of("modules.dep"), None);
    }

    #[test]
    fn packed_modules_are_unpacked_whatever_they_are_packed_with() {
        let dir = tempfile::tempdir().unwrap();
        let contents: Vec<u8> = (0..50_000u32).flat_map(u32::to_le_bytes).collect();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&contents).unwrap();
        let options = lzma_rust2::XzOptions::with_preset(1);
        let mut xz = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
        xz.write_all(&contents).unwrap();
        let files = [
            ("a.ko", contents.clone()),
            ("a.ko.gz", gzip.finish().unwrap()),
            ("a.ko.xz", xz.finish().unwrap()),
            ("a.ko.zst", zstd::encode_all(&contents[..], 1).unwrap()),
        ];
        for (name, bytes) in files {
            let path = dir.path().join(name);
            fs::write(&path, &bytes).unwrap();
            assert!(read(&path).unwrap() == contents, "{name}");
            if name != "a.ko" {
                fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
                let told = read(&path).unwrap_err().to_string();
                assert!(told.contains(name) && told.contains("unpack it"), "{told}");
            }
        }
    }

    proptest! {
        /// Files of the user's own may be anything.
        #[test]
        fn any_bytes_have_dependencies_or_are_no_module(head in prop::bool::ANY, bytes: Vec<u8>, at in 0usize..4096, change: u8) {
            let mut file = if head { crate::AGENT[..64].to_vec() } else { Vec::new() };
            file.extend(bytes);
            let _ = dependencies(&file, Path::new("x"));
            let mut agent = crate::AGENT[..crate::AGENT.len().min(8192)].to_vec();
            agent[at] = change;
            let _ = dependencies(&agent, Path::new("x"));
        }
    }

    #[test]
    fn what_is_no_module_is_told_by_its_name() {
        let told = |bytes: &[u8]| dependencies(bytes, Path::new("/m/x.ko")).unwrap_err().to_string();
        assert!(told(b"#!/bin/sh").starts_with("the kernel module /m/x.ko is not as it should be"));
        assert!(told(crate::AGENT).contains("no section .modinfo"));
    }
}
