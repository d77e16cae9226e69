//! What machines start from, made of the distribution's kernel as packages have it: modules in directories, packed in every way that there is.

#[path = "../../../tests/cloud_kernel.rs"]
mod cloud_kernel;

use cloud_kernel::Of;

use guest_image::{AGENT, Error, Files, Modules, Prepared, Source, agent_digest, prepare, prepared, write_initramfs};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

type Pack = fn(&[u8]) -> Vec<u8>;

/// Where the modules are.
const DIRECTORIES: [&str; 3] = ["kernel/fs", "kernel/drivers/virtio", "kernel/net"];

/// A kernel and its modules, and a directory to prepare in.
struct Kernel {
    dir: tempfile::TempDir,
    files: Files,
}

impl Kernel {
    fn new() -> Kernel {
        let dir = tempfile::tempdir().unwrap();
        let (kernel, modules) = as_packaged(dir.path());
        // Some distributions pack them, each in its way.
        let packed: [(&str, Pack); 3] = [("gz", gzip), ("xz", xz), ("zst", zst)];
        for directory in DIRECTORIES {
            for (number, entry) in fs::read_dir(modules.join(directory)).unwrap().flatten().enumerate() {
                let Some((ending, pack)) = packed.get(number % 4) else { continue };
                let path = entry.path();
                fs::write(path.with_extension(format!("ko.{ending}")), pack(&fs::read(&path).unwrap())).unwrap();
                fs::remove_file(path).unwrap();
            }
        }
        Kernel { dir, files: Files { kernel, modules } }
    }

    fn place(&self) -> PathBuf {
        self.dir.path().join("data/microvm")
    }

    fn prepare(&self) -> Result<Prepared, Error> {
        prepare(&self.place(), &Source::Files(self.files.clone()), &unpack, &|_| {})
    }

    fn remove_module(&self, name: &str) {
        for directory in DIRECTORIES {
            for entry in fs::read_dir(self.files.modules.join(directory)).unwrap().flatten() {
                if entry.file_name().to_str().unwrap().starts_with(&format!("{name}.ko")) {
                    fs::remove_file(entry.path()).unwrap();
                }
            }
        }
    }
}

/// Makes in a directory what the kernel's package has, of which the tests change something: the kernel, and the modules that matter here.
fn as_packaged(place: &Path) -> (PathBuf, PathBuf) {
    let (kernel, packaged) = cloud_kernel::packaged(Of::Here);
    let modules = place.join(packaged.file_name().unwrap());
    let unpacked = fs::read_dir(kernel.parent().unwrap()).unwrap().flatten().map(|entry| entry.path());
    for (number, module) in unpacked.filter(|path| path.extension().is_some_and(|ending| ending == "ko")).enumerate() {
        let directory = modules.join(DIRECTORIES[number % 3]);
        fs::create_dir_all(&directory).unwrap();
        fs::copy(&module, directory.join(module.file_name().unwrap())).unwrap();
    }
    fs::write(modules.join("modules.builtin"), "kernel/fs/ext4/ext4.ko\nkernel/drivers/virt/vmgenid.ko\n").unwrap();
    (kernel, modules)
}

/// Of what can be read again.
fn unpack(_: &Path, out: &mut File) -> Result<bool, String> {
    out.write_all(b"\x7fELF").unwrap();
    let mut written = [0; 4];
    out.read_exact_at(&mut written, 0).unwrap();
    Ok(written == *b"\x7fELF")
}

fn gzip(contents: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(contents).unwrap();
    out.finish().unwrap()
}

fn zst(contents: &[u8]) -> Vec<u8> {
    zstd::encode_all(contents, 1).unwrap()
}

fn xz(contents: &[u8]) -> Vec<u8> {
    let mut out = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(0)).unwrap();
    out.write_all(contents).unwrap();
    out.finish().unwrap()
}

/// The files of an archive, with their modes.
fn unpacked(archive: &[u8]) -> BTreeMap<String, (u32, Vec<u8>)> {
    let mut files = BTreeMap::new();
    let mut rest = archive;
    loop {
        let mut reader = cpio::newc::Reader::new(rest).unwrap();
        if reader.entry().is_trailer() {
            return files;
        }
        let (name, mode, mtime) = (reader.entry().name().to_owned(), reader.entry().mode(), reader.entry().mtime());
        assert_eq!(mtime, 0, "{name}");
        let mut contents = Vec::new();
        reader.read_to_end(&mut contents).unwrap();
        files.insert(name, (mode, contents));
        rest = reader.finish().unwrap();
    }
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_kernel_is_prepared_once_and_found() {
    let kernel = Kernel::new();
    assert_eq!(prepared(&kernel.place()).unwrap(), None);
    let made = kernel.prepare().unwrap();
    assert_eq!(prepared(&kernel.place()).unwrap().as_ref(), Some(&made));
    assert_eq!(names(&kernel.place()), ["kernel", "kernel.lock"]);
    let inside = kernel.place().join("kernel");
    assert_eq!(names(&inside), ["initramfs", "made-of", "modules", "vmlinux", "vmlinuz"]);
    assert_eq!((&made.kernel, &made.vmlinuz), (&inside.join("vmlinux"), &inside.join("vmlinuz")));
    let version = kernel.files.modules.file_name().unwrap().to_str().unwrap();
    assert_eq!((&*made.version, &*made.agent), (version, agent_digest()));
    assert_eq!(made.from, kernel.files.kernel.display().to_string());

    let initramfs = fs::read(&made.initramfs).unwrap();
    let files = unpacked(&initramfs);
    assert!(files["init"] == (0o100_755, AGENT.to_vec()));
    assert_eq!(files["dev/null"].0, 0o020_666);
    let list = String::from_utf8(files["modules/list"].1.clone()).unwrap();
    let place = |name: &str| list.lines().position(|line| line == format!("{name}.ko"));
    for (earlier, later) in [
        ("virtio_ring", "virtio_mmio"),
        ("net_failover", "virtio_net"),
        ("failover", "net_failover"),
        ("vsock", "vmw_vsock_virtio_transport"),
        ("vmw_vsock_virtio_transport_common", "vmw_vsock_virtio_transport"),
        ("libcrc32c", "erofs"),
        ("fuse", "virtiofs"),
    ] {
        assert!(place(earlier).unwrap() < place(later).unwrap(), "{earlier} before {later}: {list}");
    }
    for none in ["kvm", "tun", "ext4", "vmgenid"] {
        assert_eq!(place(none), None, "{none}: {list}");
    }
    assert_eq!(list.lines().count() + 5, files.len());
    let erofs = fs::read(cloud_kernel::directory(Of::Here).join("erofs.ko")).unwrap();
    assert!(files["modules/erofs.ko"] == (0o100_644, erofs));

    // The same gives the same bytes, and what was there has given way.
    let again = kernel.prepare().unwrap();
    assert_eq!(again, made);
    assert!(fs::read(&again.initramfs).unwrap() == initramfs);
    assert_eq!(names(&kernel.place()), ["kernel", "kernel.lock"]);
    let mut other = Vec::new();
    write_initramfs(&Modules::read(&inside.join("modules")).unwrap(), &mut other).unwrap();
    assert!(other == initramfs);
}

#[test]
fn another_agent_gets_an_initramfs_of_its_own() {
    let kernel = Kernel::new();
    let made = kernel.prepare().unwrap();
    let initramfs = fs::read(&made.initramfs).unwrap();
    // As a former version left it.
    let path = kernel.place().join("kernel/made-of");
    fs::write(&path, fs::read_to_string(&path).unwrap().replace(agent_digest(), "former")).unwrap();
    fs::write(&made.initramfs, "former").unwrap();
    fs::remove_dir_all(&kernel.files.modules).unwrap();
    assert_eq!(prepared(&kernel.place()).unwrap(), Some(made.clone()));
    assert!(fs::read(&made.initramfs).unwrap() == initramfs);
    assert_eq!(names(&kernel.place().join("kernel")), ["initramfs", "made-of", "modules", "vmlinux", "vmlinuz"]);
    fs::write(&path, "{").unwrap();
    let told = prepared(&kernel.place()).unwrap_err().to_string();
    assert!(told.contains("made-of is not as it was written") && told.contains("stratus microvm kernel"), "{told}");
}

#[test]
fn what_can_not_be_prepared_leaves_what_was_there() {
    let kernel = Kernel::new();
    let made = kernel.prepare().unwrap();
    // Somebody was killed.
    fs::create_dir(kernel.place().join("kernel.new-left")).unwrap();
    let unpack = |_: &Path, _: &mut File| Err("it is no kernel".to_owned());
    let refused = prepare(&kernel.place(), &Source::Files(kernel.files.clone()), &unpack, &|_| {});
    assert_eq!(refused.unwrap_err().to_string(), "it is no kernel");
    kernel.remove_module("net_failover");
    let told = kernel.prepare().unwrap_err().to_string();
    assert!(told.contains("virtio_net.ko") && told.contains("depends on net_failover, which is not there"), "{told}");
    kernel.remove_module("erofs");
    kernel.remove_module("virtio_net");
    let told = kernel.prepare().unwrap_err().to_string();
    assert!(told.contains("has no virtio_net, which a microVM needs for its network"), "{told}");
    assert!(told.contains("nor, by modules.builtin, built in"), "{told}");
    assert_eq!(prepared(&kernel.place()).unwrap(), Some(made));
    assert_eq!(names(&kernel.place()), ["kernel", "kernel.lock"]);
}

#[test]
fn a_kernel_that_can_not_be_unpacked_is_booted_as_it_came() {
    let kernel = Kernel::new();
    let made = prepare(&kernel.place(), &Source::Files(kernel.files.clone()), &|_, _| Ok(false), &|_| {}).unwrap();
    assert_eq!(made.kernel, made.vmlinuz);
    assert_eq!(names(&kernel.place().join("kernel")), ["initramfs", "made-of", "modules", "vmlinuz"]);
}

#[test]
fn several_that_prepare_at_once_wait_for_each_other() {
    let kernel = Kernel::new();
    let prepare_often = || (0..3).map(|_| kernel.prepare().unwrap()).collect::<Vec<_>>();
    let look_often = || {
        // What is found is whole, whoever gives it its name in this moment.
        for _ in 0..200 {
            if let Some(found) = prepared(&kernel.place()).unwrap() {
                assert!(fs::read(found.initramfs).unwrap().ends_with(&[0; 4]) && found.kernel.exists());
            }
        }
    };
    std::thread::scope(|scope| {
        let all = [scope.spawn(prepare_often), scope.spawn(prepare_often)];
        scope.spawn(look_often);
        let made: Vec<_> = all.into_iter().flat_map(|each| each.join().unwrap()).collect();
        assert!(made.iter().all(|one| *one == made[0]));
    });
    assert_eq!(names(&kernel.place()), ["kernel", "kernel.lock"]);
}
