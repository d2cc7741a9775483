//! Opens files whose paths people give, without waiting for another process.

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use std::fs::{File, OpenOptions, read_link};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// The content of a file, at most `limit` bytes and one more.
pub(crate) fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    let file = open(path)?;
    file.take(limit.saturating_add(1))
        .read_to_end(&mut content)?;
    Ok(content)
}

/// Opens a file to read it. A named pipe is refused: opening or reading it can wait without limit for its other
/// end. A pipe without a name, such as the `/dev/fd/63` of a shell's process substitution, has its other end
/// already.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(path)?;
    if file.metadata()?.file_type().is_fifo() && !is_unnamed(&file)? {
        return Err(io::Error::other("it is a named pipe, and not a file"));
    }
    // Others end, or are a terminal.
    fcntl(&file, FcntlArg::F_SETFL(OFlag::empty()))?;
    Ok(file)
}

/// The kernel shows a pipe without a name as `pipe:[…]`.
fn is_unnamed(pipe: &File) -> io::Result<bool> {
    let link = read_link(format!("/proc/self/fd/{}", pipe.as_raw_fd()))?;
    Ok(link.to_string_lossy().starts_with("pipe:["))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use nix::sys::stat::Mode;
    use nix::unistd::{mkfifo, pipe, write};

    #[test]
    fn a_file_is_read_up_to_its_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        std::fs::write(&path, "12345").unwrap();
        assert_eq!(read(&path, 5).unwrap(), b"12345");
        assert_eq!(read(&path, 3).unwrap(), b"1234");
        let missing = read(&folder.path().join("y"), 3).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        assert!(read(folder.path(), 3).is_err(), "a directory");
    }

    #[test]
    fn a_named_pipe_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        let error = read(&path, 9).unwrap_err().to_string();
        assert_eq!(error, "it is a named pipe, and not a file");
    }

    #[test]
    fn a_pipe_without_a_name_is_read_to_its_end() {
        let (reader, writer) = pipe().unwrap();
        let path = format!("/dev/fd/{}", reader.as_raw_fd());
        let file = open(Path::new(&path)).unwrap();
        let flags = fcntl(&file, FcntlArg::F_GETFL).unwrap();
        assert!(
            !OFlag::from_bits_retain(flags).contains(OFlag::O_NONBLOCK),
            "it waits for a writer that is slow"
        );
        write(&writer, b"12345").unwrap();
        drop(writer);
        assert_eq!(read(Path::new(&path), 9).unwrap(), b"12345");
    }
}
