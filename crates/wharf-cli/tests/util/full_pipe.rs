//! A reader that does not read.

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use std::io::{ErrorKind, PipeReader, PipeWriter, Write};

/// A pipe that holds all that it can.
pub(crate) fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    let flags = fcntl_getfl(&writer).expect("open");
    fcntl_setfl(&writer, flags | OFlags::NONBLOCK).expect("open");
    loop {
        match writer.write(&[b'.'; 4_096]) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    fcntl_setfl(&writer, flags).expect("open");
    (reader, writer)
}
