use super::{super::testing::*, *};

fn put(folder: &Path, path: &str, bytes: &[u8]) {
    let path = folder.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn packed(of: &[(&str, &[u8])]) -> Vec<u8> {
    archive::write(&kernels(of), Vec::new()).unwrap()
}

fn names(source: &Source) -> Vec<String> {
    source.kernels().unwrap().iter().map(Kernel::to_string).collect()
}

#[test]
fn a_directory_holds_files_and_archives_and_other_things_beside() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    put(at, "debian/11/x86_64/5.10.0-1.btf", DEBIAN_11);
    put(at, "debian/11/x86_64/notes.txt", b"x");
    put(at, "debian/11/README", b"x");
    put(at, "debian/sources.list", b"x");
    put(at, "README.md", b"x");
    put(at, ".git/a/b/c/1.btf", b"x");
    put(at, "more.tar.xz", &packed(&[("ubuntu/20.04/x86_64/5.4", DEBIAN_13)]));
    let source = Source::open(at).unwrap();
    assert_eq!(names(&source), ["debian/11/x86_64/5.10.0-1", "ubuntu/20.04/x86_64/5.4"]);
    let file = source.find(&kernel("debian/11/x86_64/5.10.0-1")).unwrap().unwrap();
    assert_eq!((file.bytes.as_slice(), file.origin), (DEBIAN_11, at.join("debian/11/x86_64/5.10.0-1.btf").display().to_string()));
    let archived = source.find(&kernel("ubuntu/20.04/x86_64/5.4")).unwrap().unwrap();
    let place = format!("ubuntu/20.04/x86_64/5.4 in {}", at.join("more.tar.xz").display());
    assert_eq!((archived.bytes.as_slice(), archived.origin), (DEBIAN_13, place));
    assert_eq!(source.find(&kernel("debian/11/x86_64/5.10.0-2")).unwrap(), None);
}

#[test]
fn a_mounted_config_map_is_a_directory_of_links() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "..2026_01_01/btf.tar.xz", &packed(&[("debian/11/x86_64/5.10", DEBIAN_11)]));
    std::os::unix::fs::symlink("..2026_01_01", folder.path().join("..data")).unwrap();
    std::os::unix::fs::symlink("..data/btf.tar.xz", folder.path().join("btf.tar.xz")).unwrap();
    assert_eq!(names(&Source::open(folder.path()).unwrap()), ["debian/11/x86_64/5.10"]);
}

#[test]
fn a_file_that_is_there_and_damaged_is_an_error_and_not_a_miss() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "debian/11/x86_64/1.btf", &DEBIAN_11[..1000]);
    put(folder.path(), "debian/11/arm64/1.btf", DEBIAN_11);
    put(folder.path(), "debian/11/x86_64/2.btf.tar.xz", b"not xz");
    put(folder.path(), "debian/11/x86_64/3.btf.xz", b"");
    let source = Source::open(folder.path()).unwrap();
    for (name, why) in [
        ("debian/11/x86_64/1", "truncated"),
        ("debian/11/arm64/1", "of a kernel for x86_64, not for arm64"),
        ("debian/11/x86_64/2", "it is not compressed by xz"),
        ("debian/11/x86_64/3", "it is not compressed by xz"),
    ] {
        let error = format!("{:#}", source.find(&kernel(name)).unwrap_err());
        assert!(error.contains(why) && error.contains(name.rsplit('/').next().unwrap()), "{error}");
    }
}

#[test]
fn what_is_not_there_or_no_archive_says_so() {
    let error = format!("{:#}", Source::open(Path::new("/nonexistent/btf")).unwrap_err());
    assert!(error.contains("/nonexistent/btf") && error.contains("No such file"), "{error}");
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "a.txt", b"hello");
    let error = format!("{:#}", Source::open(&folder.path().join("a.txt")).unwrap().kernels().unwrap_err());
    assert!(error.contains("a.txt") && error.contains("a.txt: it is not compressed by xz"), "{error}");
    let device = format!("{:#}", Source::open(Path::new("/dev/zero")).unwrap().kernels().unwrap_err());
    assert!(device.contains("/dev/zero is no regular file"), "{device}");
}

#[test]
fn what_would_make_a_reader_wait_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "debian/11/x86_64/1.btf", DEBIAN_11);
    let fifo = |name: &str| {
        let path = folder.path().join(name);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        path
    };
    let fifos = ["2.btf", "3.btf.xz", "4.btf.tar.xz"].map(|name| fifo(&format!("debian/11/x86_64/{name}")));
    let archive = fifo("all.tar.xz");
    let socket = folder.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    // In a thread of its own: a reader that waits would wait for ever.
    let (sender, receiver) = crossbeam_channel::bounded(1);
    let at = folder.path().to_owned();
    let read = move || {
        let source = Source::open(&at).unwrap();
        let mut said = Vec::new();
        for (number, path) in (2..).zip(&fifos) {
            let error = source.find(&kernel(&format!("debian/11/x86_64/{number}"))).unwrap_err();
            said.push((path.clone(), format!("{error:#}")));
        }
        for path in [archive, socket] {
            said.push((path.clone(), format!("{:#}", Source::open(&path).unwrap().kernels().unwrap_err())));
        }
        said.push((fifos[0].clone(), format!("{:#}", read_plain(&fifos[0]).unwrap_err())));
        // What stands beside them is found, and an archive that is none is passed over.
        assert!(source.find(&kernel("debian/11/x86_64/1")).unwrap().is_some());
        assert_eq!(source.find(&kernel("debian/11/x86_64/9")).unwrap(), None);
        sender.send(said).unwrap();
    };
    let reader = std::thread::Builder::new().spawn(read).unwrap();
    let said = receiver.recv_timeout(std::time::Duration::from_secs(10)).expect("nothing waits");
    reader.join().unwrap();
    assert_eq!(said.len(), 6);
    for (path, error) in said {
        assert!(error.ends_with(&format!("{} is no regular file", path.display())), "{error}");
    }
}
