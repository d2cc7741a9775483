//! From the connection to plaintext.

use super::buffer::ReceiveBuffer;
use super::messages::Message;
use super::open::{Opened, Opener};
use super::{Sender, alert_of, as_io};
use rustls::Error;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use zeroize::Zeroize;

/// Most records that are decrypted before their data is taken. A full buffer has eight full records.
const PIECES: usize = 16;

/// How receiving ended.
enum End {
    /// The peer announced it.
    Announced,
    /// The connection ended before that.
    Cut,
    Failed(Error),
}

/// The direction that receives.
pub(crate) struct Receiver {
    buffer: ReceiveBuffer,
    opener: Opener,
    /// Where in the buffer decrypted data waits to be taken, in order.
    pieces: Vec<Range<usize>>,
    /// How many of them were taken.
    taken: usize,
    end: Option<End>,
    /// Tickets of a server.
    tickets: u32,
    key_changes: u64,
}

impl Receiver {
    pub(in crate::tls) fn new(received: Vec<u8>, opener: Opener) -> Self {
        Self {
            buffer: ReceiveBuffer::new(received),
            opener,
            pieces: Vec::with_capacity(PIECES),
            taken: 0,
            end: None,
            tickets: 0,
            key_changes: 0,
        }
    }

    pub(in crate::tls) fn tickets(&self) -> u32 {
        self.tickets
    }

    /// How often the peer has changed its key.
    pub(in crate::tls) fn key_changes(&self) -> u64 {
        self.key_changes
    }

    /// Waits until decrypted data is there. False after the announced end of the peer's direction.
    ///
    /// `sender` is the other direction: it answers messages of the peer, and reports an error.
    pub(crate) fn poll_data<S>(
        &mut self,
        connection: &mut S,
        sender: &mut Sender,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<bool>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        loop {
            if self.end.is_none() {
                if let Err(error) = self.open_received(sender) {
                    if let Some(alert) = alert_of(&error) {
                        sender.report(alert, connection, context);
                    }
                    self.end = Some(End::Failed(error));
                }
            }
            // Data before an end is valid.
            if self.taken < self.pieces.len() {
                return Poll::Ready(Ok(true));
            }
            match &self.end {
                None => {}
                Some(End::Announced) => return Poll::Ready(Ok(false)),
                Some(End::Cut) => return Poll::Ready(Err(cut())),
                Some(End::Failed(error)) => return Poll::Ready(Err(as_io(error.clone()))),
            }
            let mut space = ReadBuf::new(self.buffer.space().map_err(as_io)?);
            ready!(Pin::new(&mut *connection).poll_read(context, &mut space))?;
            match space.filled().len() {
                0 => self.end = Some(End::Cut),
                count => self.buffer.filled(count),
            }
        }
    }

    /// Decrypts the complete records in the buffer.
    fn open_received(&mut self, sender: &mut Sender) -> Result<(), Error> {
        if self.taken < self.pieces.len() {
            return Ok(());
        }
        self.pieces.clear();
        self.taken = 0;
        while self.pieces.len() < PIECES {
            let Some(place) = self.buffer.next_record()? else {
                break;
            };
            let start = place.start;
            match self.opener.open(self.buffer.get_mut(place))? {
                Opened::Nothing => {}
                Opened::Data(data) if data.is_empty() => {}
                Opened::Data(data) => self.pieces.push(start + data.start..start + data.end),
                Opened::Messages => self.handle_messages(sender)?,
                Opened::End => {
                    self.end = Some(End::Announced);
                    break;
                }
            }
        }
        Ok(())
    }

    fn handle_messages(&mut self, sender: &mut Sender) -> Result<(), Error> {
        while let Some(message) = self.opener.next_message()? {
            match message {
                Message::KeyUpdate { answer } => {
                    self.opener
                        .change_key(sender.schedule().next_to_receive()?)?;
                    self.key_changes += 1;
                    if answer {
                        sender.answer_key_update();
                    }
                }
                Message::Ticket(ticket) => {
                    self.tickets += 1;
                    sender.schedule().store_ticket(&ticket)?;
                }
                Message::Renegotiation => sender.refuse_renegotiation(),
            }
        }
        Ok(())
    }

    /// The first decrypted data that was not taken, of at most one record.
    pub(in crate::tls) fn data(&self) -> &[u8] {
        match self.pieces.get(self.taken) {
            Some(piece) => self.buffer.get(piece.clone()),
            None => &[],
        }
    }

    /// Removes the first bytes of the [`data`](Self::data), and wipes them in the buffer if `wipe`.
    pub(in crate::tls) fn take(&mut self, count: usize, wipe: bool) {
        let Some(piece) = self.pieces.get_mut(self.taken) else {
            return;
        };
        let taken = piece.start..piece.end.min(piece.start + count);
        piece.start = taken.end;
        if piece.start == piece.end {
            self.taken += 1;
        }
        if wipe {
            self.buffer.get_mut(taken).zeroize();
        }
    }

    /// All decrypted data, which is taken by this: a buffer, and the places in it.
    pub(crate) fn take_all(&mut self) -> (&[u8], &[Range<usize>]) {
        let from = std::mem::replace(&mut self.taken, self.pieces.len());
        (self.buffer.whole(), &self.pieces[from..])
    }
}

/// The error of a connection that ends without close_notify.
fn cut() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the peer ended the connection without close_notify",
    )
}
