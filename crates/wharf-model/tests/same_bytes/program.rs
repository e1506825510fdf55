//! The programs: what a handler replies to what it receives.

/// A program that takes everything it receives at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    /// Everything comes back.
    Echo,
    /// A message has a length of four bytes before it, and comes back when all of it is there.
    Messages,
    /// As `Messages`, and its body comes back reversed.
    Reversed,
}

/// What a program keeps for a link: what has come of the next message.
#[derive(Clone, Debug, Default)]
pub(crate) struct Partial(Vec<u8>);

impl Program {
    /// Handles what has come; each reply goes to `send`.
    ///
    /// # Errors
    ///
    /// Those of `send`.
    pub(crate) fn receive<E>(
        self,
        partial: &mut Partial,
        data: &[u8],
        mut send: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        if self == Self::Echo {
            return send(data);
        }
        partial.0.extend_from_slice(data);
        while let Some(prefix) = partial.0.first_chunk::<4>() {
            let len = 4 + usize::try_from(u32::from_be_bytes(*prefix)).unwrap();
            if partial.0.len() < len {
                break;
            }
            let mut reply: Vec<u8> = partial.0.drain(..len).collect();
            if self == Self::Reversed {
                reply[4..].reverse();
            }
            send(&reply)?;
        }
        Ok(())
    }

    /// All that a client hears that says `text`.
    pub(crate) fn replies(self, text: &[u8]) -> Vec<u8> {
        let mut replies = Vec::new();
        let result = self.receive(&mut Partial::default(), text, |reply| {
            replies.extend_from_slice(reply);
            Ok::<(), std::convert::Infallible>(())
        });
        result.unwrap();
        replies
    }
}
