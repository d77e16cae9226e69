//! RPM's databases, made by RPM, SQLite and Berkeley DB themselves, read as RPM reads them.

use build::rpm::{self, Installed, Stored};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// Runs a command that must succeed, and gives what it says.
fn run(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn rpm(database: &Path) -> Command {
    let mut command = Command::new("rpm");
    command.env("HOME", database).args(["--define", "_db_backend sqlite", "--dbpath"]).arg(database);
    command
}

/// Packages of all kinds: with an epoch and without, small ones and some that no page of a database has room for.
fn made(directory: &Path) -> Vec<PathBuf> {
    let long = "Nobody reads all of this. ".repeat(4000);
    for number in 0..40 {
        let (epoch, text) =
            (if number % 3 == 0 { "Epoch: 7\n" } else { "" }, if number % 8 == 0 { &*long } else { "x" });
        let spec = format!(
            "Name: package-{number}\nVersion: 1.{number}\nRelease: 2.el9\n{epoch}Summary: One\nLicense: MIT\nBuildArch: noarch\n\
             %description\n{text}\n%files\n"
        );
        fs::write(directory.join(format!("{number}.spec")), spec).unwrap();
    }
    let specs = (0..40).map(|number| directory.join(format!("{number}.spec")));
    let topdir = format!("_topdir {}", directory.display());
    run(Command::new("rpmbuild").env("HOME", directory).args(["-ba", "--define", &topdir]).args(specs));
    let built = fs::read_dir(directory.join("RPMS/noarch")).unwrap();
    built.map(|entry| entry.unwrap().path()).collect()
}

/// A database of RPM's, some of whose packages were removed again.
fn installed(packages: &[PathBuf], directory: &Path) -> PathBuf {
    let database = directory.join("database");
    fs::create_dir(&database).unwrap();
    run(rpm(&database).args(["--install", "--justdb", "--nodeps", "--noscripts", "--force-debian"]).args(packages));
    run(rpm(&database).args(["--erase", "--justdb", "--force-debian", "package-3", "package-8", "package-39"]));
    database
}

/// What RPM says that is in it.
fn said(database: &Path) -> Vec<Installed> {
    let format = "%{NAME} %|EPOCH?{%{EPOCH}:}|%{VERSION}-%{RELEASE} %{ARCH} %{SOURCERPM}\\n";
    let said = String::from_utf8(run(rpm(database).args(["--query", "--all", "--qf", format]))).unwrap();
    let package = |line: &str| {
        let [name, version, architecture, source] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let (name, version, architecture) = (name.to_owned(), version.to_owned(), architecture.to_owned());
        Installed { name, version, architecture, source: Some(source.to_owned()) }
    };
    sorted(said.lines().map(package).collect())
}

fn sorted(mut packages: Vec<Installed>) -> Vec<Installed> {
    packages.sort_by(|one, other| one.name.cmp(&other.name));
    packages
}

fn read(database: &dyn Stored, log: Option<&dyn Stored>) -> Result<Vec<Installed>, rpm::Error> {
    let mut packages = Vec::new();
    rpm::packages(database, log, &mut |package| {
        packages.push(package);
        Ok(())
    })?;
    Ok(sorted(packages))
}

/// The headers of a database, each as it is there.
fn headers(database: &Path) -> Vec<Vec<u8>> {
    let mut export = Command::new("rpmdb");
    let exported = run(export.args(["--define", "_db_backend sqlite", "--exportdb", "--dbpath"]).arg(database));
    let (mut rest, mut headers) = (&exported[..], Vec::new());
    while let Some((magic, header)) = rest.split_at_checked(8) {
        assert_eq!(magic, [0x8e, 0xad, 0xe8, 1, 0, 0, 0, 0]);
        let number = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap()) as usize;
        let (header, after) = header.split_at(8 + 16 * number(0) + number(4));
        headers.push(header.to_vec());
        rest = after;
    }
    headers
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn rpms_databases_are_read_as_rpm_reads_them() {
    let directory = TempDir::new().unwrap();
    let packages = made(directory.path());
    let database = installed(&packages, directory.path());
    let (headers, said, file) = (headers(&database), said(&database), database.join("rpmdb.sqlite"));
    assert_eq!(said.len(), 37);
    assert_eq!(read(&fs::File::open(&file).unwrap(), None).unwrap(), said);
    survives_damage(&fs::read(&file).unwrap());
    logged(&headers, &said);
    berkeley(&headers, &said);
    ndb(&headers, &said);
}

/// The same headers in a hash of Berkeley DB, in both byte orders.
fn berkeley(headers: &[Vec<u8>], said: &[Installed]) {
    let directory = TempDir::new().unwrap();
    for order in ["1234", "4321"] {
        let key = |number: usize| match order {
            "1234" => hex(&u32::try_from(number).unwrap().to_le_bytes()),
            _ => hex(&u32::try_from(number).unwrap().to_be_bytes()),
        };
        let mut dump =
            format!("VERSION=3\nformat=bytevalue\ntype=hash\ndb_lorder={order}\ndb_pagesize=4096\nHEADER=END\n");
        dump += &format!(" {}\n {}\n", key(0), key(headers.len() + 1));
        for (index, header) in headers.iter().enumerate() {
            dump += &format!(" {}\n {}\n", key(index + 1), hex(header));
        }
        dump += "DATA=END\n";
        let (text, database) = (directory.path().join("dump"), directory.path().join(order));
        fs::write(&text, dump).unwrap();
        run(Command::new("db5.3_load").arg("-f").arg(&text).arg(&database));
        assert_eq!(read(&fs::File::open(&database).unwrap(), None).unwrap(), said, "{order}");
        survives_damage(&fs::read(&database).unwrap());
    }
}

/// The same headers in an SQLite database whose later half is in its log alone.
fn logged(headers: &[Vec<u8>], said: &[Installed]) {
    let directory = TempDir::new().unwrap();
    let database = directory.path().join("rpmdb.sqlite");
    let insert = |header: &Vec<u8>| format!("INSERT INTO Packages (blob) VALUES (x'{}');\n", hex(header));
    let (first, second) = headers.split_at(headers.len() / 2);
    let mut script = String::from(
        ".bail on\nPRAGMA journal_mode=WAL;\nCREATE TABLE 'Packages' (hnum INTEGER PRIMARY KEY AUTOINCREMENT, blob BLOB NOT NULL);\n",
    );
    script.extend(first.iter().map(insert));
    script += "PRAGMA wal_checkpoint(TRUNCATE);\n.dbconfig no_ckpt_on_close on\n";
    script.extend(second.iter().map(insert));
    let written = directory.path().join("script");
    fs::write(&written, script).unwrap();
    run(Command::new("sqlite3").arg(&database).stdin(Stdio::from(fs::File::open(&written).unwrap())));
    let (file, log) = (fs::read(&database).unwrap(), fs::read(directory.path().join("rpmdb.sqlite-wal")).unwrap());
    assert!(!log.is_empty(), "everything is in the database");
    assert_eq!(read(&&file[..], None).unwrap().len(), first.len());
    assert_eq!(read(&&file[..], Some(&&log[..])).unwrap(), said);
    // A transaction that was cut off is none.
    let cut = &log[..log.len() - 100];
    assert_eq!(read(&&file[..], Some(&cut)).unwrap().len(), headers.len() - 1);
    survives_damage(&file);
}

/// The same headers as openSUSE's RPM writes them; Debian's can't. Of a page of slots only some are taken.
fn ndb(headers: &[Vec<u8>], said: &[Installed]) {
    const SLOTS: usize = 2 * 4096;
    let number = |number: usize| u32::try_from(number).unwrap().to_le_bytes();
    let slot = |package, block, blocks| [*b"Slot", number(package), number(block), number(blocks)].concat();
    let (mut slots, mut blobs) = ([*b"RpmP", number(0), number(9), number(SLOTS / 4096)].concat(), Vec::new());
    slots.extend_from_slice(&[number(headers.len() + 1), [0; 4], [0; 4], [0; 4]].concat());
    for (index, header) in headers.iter().enumerate() {
        let (package, block) = (index + 1, (SLOTS + blobs.len()) / 16);
        blobs.extend_from_slice(&[*b"BlbS", number(package), number(9), number(header.len())].concat());
        blobs.extend_from_slice(header);
        // A sum, which nobody needs who reads it once, and the length again, at the end of the last block.
        blobs.resize((blobs.len() + 12).next_multiple_of(16) - 8, 0);
        blobs.extend_from_slice(&[number(header.len()), *b"BlbE"].concat());
        slots.extend((0..5).flat_map(|_| slot(0, 0, 0)));
        slots.extend(slot(package, block, (SLOTS + blobs.len()) / 16 - block));
    }
    slots.extend((slots.len()..SLOTS).step_by(16).flat_map(|_| slot(0, 0, 0)));
    let database = [slots, blobs].concat();
    assert_eq!(read(&&database[..], None).unwrap(), said);
    survives_damage(&database);
}

#[test]
fn a_database_of_which_everything_leads_to_the_same_is_refused() {
    let number = |number: usize| u32::try_from(number).unwrap().to_le_bytes();
    // Two thousand slots of one header of four million bytes.
    let (slots, size) = (8 * 4096, 4_000_000);
    let mut database = [*b"RpmP", number(0), number(1), number(slots / 4096)].concat();
    database.resize(32, 0);
    let slot = [*b"Slot", number(1), number(slots / 16), number(size / 16 + 2)].concat();
    database.extend(slot.iter().copied().cycle().take(slots - 32));
    database.extend([*b"BlbS", number(1), number(1), number(size)].concat());
    database.resize(database.len() + size + 16, 0);
    let mut count = 0;
    let read = rpm::packages(&&database[..], None, &mut |_| {
        count += 1;
        Ok(())
    });
    assert!(matches!(read, Err(rpm::Error::Damaged(_))), "{read:?}");
    // A page of SQLite whose cells are all the same one.
    let mut page = vec![0; 65536];
    page[..16].copy_from_slice(b"SQLite format 3\0");
    page[16..18].copy_from_slice(&[0, 1]);
    let row = b"\x05\x17\x1d\x1d\x01tablePackagesPackages\x02";
    let at = page.len() - row.len() - 2;
    page[at] = u8::try_from(row.len()).unwrap();
    page[at + 1] = 1;
    page[at + 2..].copy_from_slice(row);
    page[100] = 13;
    page[103..105].copy_from_slice(&1u16.to_be_bytes());
    page[108..110].copy_from_slice(&u16::try_from(at).unwrap().to_be_bytes());
    let mut leaf = vec![0; 65536];
    let text = [b'x'; 60_000];
    // One header of one name, and thirty thousand pointers to it would not fit beside it: three hundred do.
    let header = [&2u32.to_be_bytes()[..], &60_001u32.to_be_bytes(), &[0; 32], &text, b"\0"].concat();
    let body = [&[5, 0][..], &varint(12 + 2 * header.len() as u64), &header].concat();
    let cell = [varint(body.len() as u64), vec![1], body].concat();
    let at = leaf.len() - cell.len();
    leaf[at..].copy_from_slice(&cell);
    leaf[0] = 13;
    leaf[3..5].copy_from_slice(&300u16.to_be_bytes());
    for pointer in 0..300 {
        leaf[8 + 2 * pointer..10 + 2 * pointer].copy_from_slice(&u16::try_from(at).unwrap().to_be_bytes());
    }
    let database = [page, leaf].concat();
    let read = rpm::packages(&&database[..], None, &mut |_| Ok(()));
    assert!(matches!(read, Err(rpm::Error::Damaged("its pages lead to each other without an end"))), "{read:?}");
    // One whose bytes nobody wrote is refused for its size.
    let file = tempfile::tempfile().unwrap();
    file.set_len(2 << 40).unwrap();
    let refused = rpm::packages(&file, None, &mut |_| Ok(())).unwrap_err();
    assert_eq!(refused.to_string(), "RPM's database has more than 1 GiB");
}

fn varint(number: u64) -> Vec<u8> {
    let mut bytes = vec![u8::try_from(number & 0x7f).unwrap()];
    let mut rest = number >> 7;
    while rest > 0 {
        bytes.insert(0, u8::try_from(rest & 0x7f).unwrap() | 0x80);
        rest >>= 7;
    }
    bytes
}

/// Whatever becomes of it, it is read or refused: never a panic, never without an end.
fn survives_damage(database: &[u8]) {
    use rand::{Rng as _, SeedableRng as _};
    let mut random = rand::rngs::StdRng::seed_from_u64(1);
    for _ in 0..300 {
        let mut damaged = database.to_vec();
        for _ in 0..random.random_range(1..20) {
            let near = if random.random() { damaged.len().min(8192) } else { damaged.len() };
            let at = random.random_range(0..near);
            damaged[at] = random.random();
        }
        if random.random_range(0..4) == 0 {
            damaged.truncate(random.random_range(0..database.len()));
        }
        let _ = read(&&damaged[..], Some(&&damaged[..]));
    }
}
