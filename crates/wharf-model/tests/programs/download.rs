//! Sends files of any size in constant memory: as much as there is capacity for, and on when there is more.
//!
//! A request is a line with the file's name; the reply is its length, and its bytes.

use crate::check;
use std::fs::File;
use std::path::PathBuf;
use wharf_model::{Error, Handler, Input, Link, Result, Rng};

struct Files {
    folder: PathBuf,
}

/// The file that is being sent, and how many of its bytes are left.
type Transfer = Option<(File, u64)>;

impl Handler<Transfer> for Files {
    fn on_connect(&self, _: &mut Link<'_>) -> Result<Transfer> {
        Ok(None)
    }

    fn on_receive(&self, link: &mut Link<'_, Transfer>, input: &mut Input<'_>) -> Result {
        if link.state.is_some() {
            // The next request stays unread until then.
            return Ok(());
        }
        let Some(name) = input.line(255)? else { return Ok(()) };
        let name = str::from_utf8(name)?;
        if name.contains(['/', '\\']) || name.starts_with('.') {
            return Err(Error::msg("that is no file's name"));
        }
        let file = File::open(self.folder.join(name))?;
        let len = file.metadata()?.len();
        writeln!(link.out, "{len}")?;
        *link.state = Some((file, len));
        self.on_writable(link)
    }

    fn on_writable(&self, link: &mut Link<'_, Transfer>) -> Result {
        let Some((file, left)) = link.state else { return Ok(()) };
        let copied = link.out.read_from(file, *left)?;
        *left -= copied.bytes;
        if *left == 0 {
            *link.state = None;
        } else if copied.ended {
            return Err(Error::msg("the file has become shorter"));
        }
        Ok(())
    }
}

pub(crate) fn run(seeds: u64) {
    let folder = std::env::temp_dir().join(format!("wharf-model-files-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let mut rng = Rng::new(77);
    let files: Vec<Vec<u8>> = [1, 10, 200, 3_000, 20_000].map(|len| rng.letters(len)).into();
    for (n, file) in files.iter().enumerate() {
        std::fs::write(folder.join(n.to_string()), file).unwrap();
    }
    check(
        seeds,
        || Files { folder: folder.clone() },
        |rng| {
            let (mut text, mut replies) = (Vec::new(), Vec::new());
            for _ in 0..rng.below(6) {
                let n = rng.below(files.len());
                text.extend(format!("{n}\n").bytes());
                replies.extend([format!("{}\n", files[n].len()).as_bytes(), &files[n]].concat());
            }
            (text, replies)
        },
    );
}
