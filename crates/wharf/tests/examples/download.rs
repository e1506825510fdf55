//! download: files of any size, whole, in constant memory.

use super::common::{Example, Pieces, Rng, check};
use super::each_back_end;
use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use wharf::BackEnd;

each_back_end! {
    download_sends_files_whole_and_one_after_the_other,
    download_needs_no_more_memory_for_more_bytes,
}

/// A folder of its own, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let name = format!("wharf-download-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // An error leaves a file in the system's folder for temporary files.
        let _left = fs::remove_dir_all(&self.0);
    }
}

fn download_sends_files_whole_and_one_after_the_other(back_end: BackEnd) {
    let folder = Folder::new(&format!("whole-{back_end}"));
    let mut rng = Rng::new(77);
    let sizes = [1, 10, 2_049, 3_000, 300_000, 2_000_000];
    let files: Vec<Vec<u8>> = sizes.map(|len| rng.letters(len)).into();
    for (n, file) in files.iter().enumerate() {
        fs::write(folder.0.join(n.to_string()), file).unwrap();
    }
    let Some(example) = Example::start_in("download", back_end, &folder.0) else { return };
    check(&example, |rng| {
        let (mut text, mut replies) = (Vec::new(), Vec::new());
        for _ in 0..rng.below(8) {
            let n = rng.below(files.len());
            text.extend(format!("{n}\n").bytes());
            replies.extend([format!("{}\n", files[n].len()).as_bytes(), &files[n]].concat());
        }
        (text, replies)
    });
    for name in ["not-there", "", "../etc/passwd", "/etc/passwd", ".hidden", &"x".repeat(300)] {
        let text = format!("1\n{name}\n1\n");
        let expected = [format!("{}\n", files[1].len()).as_bytes(), &files[1]].concat();
        assert_eq!(example.ask(text.as_bytes(), &mut Pieces::ByteByByte), expected, "{name}");
    }
    example.stop();
}

fn download_needs_no_more_memory_for_more_bytes(back_end: BackEnd) {
    const LEN: u64 = 64 << 20;
    let folder = Folder::new(&format!("memory-{back_end}"));
    fs::File::create(folder.0.join("large")).unwrap().set_len(LEN).unwrap();
    let Some(example) = Example::start_in("download", back_end, &folder.0) else { return };
    let before = example.memory_max_bytes();
    // Clients that do not read, and one that does.
    let mut lazy: Vec<_> = (0..20).map(|_| example.connect()).collect();
    for client in &mut lazy {
        client.write_all(b"large\n").unwrap();
    }
    let mut client = example.connect();
    client.write_all(b"large\n").unwrap();
    let mut head = [0; 9];
    client.read_exact(&mut head).unwrap();
    assert_eq!(head, *b"67108864\n");
    let (mut piece, mut len) = (vec![1; 1 << 16], 0);
    while len < LEN {
        let count = client.read(&mut piece).unwrap();
        assert!(count > 0 && piece[..count].iter().all(|byte| *byte == 0), "at {len}");
        len += count as u64;
    }
    let more = example.memory_max_bytes() - before;
    // All buffers are there from the start, but the system gives a page when it is first touched.
    assert!(more < 32 << 20, "{more} bytes more");
    drop((lazy, client));
    example.stop();
}
