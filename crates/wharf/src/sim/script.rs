//! A client that executes a list of steps.

use crate::sim::client::{Client, Next};
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::time::Duration;
use wharf_port::port::Time;
use wharf_port::sim::SimClient;

/// A client that executes a list of steps in order, and closes at the end.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Script {
    steps: VecDeque<Step>,
    /// Transferred bytes of the current step.
    done: usize,
    wakes_at: Option<Time>,
}

#[derive(Clone, Debug)]
enum Step {
    Send(Vec<u8>),
    Expect(Vec<u8>),
    ExpectEnd,
    Pause(Duration),
    Finish,
    Reset,
}

impl Script {
    /// An empty list: the client connects and closes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes `bytes`, without a timeout.
    pub fn send(self, bytes: impl Into<Vec<u8>>) -> Self {
        self.then(Step::Send(bytes.into()))
    }

    /// Reads `bytes.len()` bytes; others than `bytes` are a failure.
    pub fn expect(self, bytes: impl Into<Vec<u8>>) -> Self {
        self.then(Step::Expect(bytes.into()))
    }

    /// Reads the end of the server's stream; bytes before it are a failure.
    pub fn expect_end(self) -> Self {
        self.then(Step::ExpectEnd)
    }

    /// Neither reads nor writes for this time.
    pub fn pause(self, time: Duration) -> Self {
        self.then(Step::Pause(time))
    }

    /// Ends the client's stream; it can still read.
    pub fn finish(self) -> Self {
        self.then(Step::Finish)
    }

    /// Resets the connection.
    pub fn reset(self) -> Self {
        self.then(Step::Reset)
    }

    fn then(mut self, step: Step) -> Self {
        self.steps.push_back(step);
        self
    }

    /// Continues with the first step; `None` if it is done.
    fn go_on(&mut self, connection: &mut SimClient, now: Time) -> Result<Option<Next>, String> {
        match self.steps.front() {
            None => Ok(Some(Next::Close)),
            Some(Step::Reset) => Ok(Some(Next::Reset)),
            Some(Step::Finish) => {
                connection.shutdown_write();
                Ok(None)
            }
            Some(Step::Pause(time)) => {
                let wakes_at = *self.wakes_at.get_or_insert(now.saturating_add(*time));
                let is_over = wakes_at <= now;
                if is_over {
                    self.wakes_at = None;
                }
                Ok((!is_over).then_some(Next::Sleep(wakes_at)))
            }
            Some(Step::Send(bytes)) => match connection.try_write(&bytes[self.done..]) {
                Ok(count) => {
                    self.done += count;
                    Ok(if self.done < bytes.len() { Some(Next::Wait) } else { None })
                }
                Err(error) => Ok(Some(blocked_or_ended(error.kind(), "while it was sending"))),
            },
            Some(Step::Expect(bytes)) => {
                let mut buffer = [0; 2048];
                let most = buffer.len().min(bytes.len() - self.done);
                match connection.try_read(&mut buffer[..most]) {
                    Ok(0) if most > 0 => {
                        let text = format!("after {} of {} bytes", self.done, bytes.len());
                        Ok(Some(Next::EndedEarly(text)))
                    }
                    Ok(count) => {
                        let (got, wanted) = (&buffer[..count], &bytes[self.done..][..count]);
                        if got != wanted {
                            return Err(format!(
                                "got {got:02x?} at {}, not {wanted:02x?}",
                                self.done
                            ));
                        }
                        self.done += count;
                        if self.done < bytes.len() {
                            return self.go_on(connection, now);
                        }
                        Ok(None)
                    }
                    Err(error) => Ok(Some(blocked_or_ended(error.kind(), "while it was reading"))),
                }
            }
            Some(Step::ExpectEnd) => match connection.try_read(&mut [0; 64]) {
                Ok(0) => Ok(None),
                Ok(count) => Err(format!("got {count} bytes more, not the end")),
                Err(error) => Ok(Some(blocked_or_ended(error.kind(), "before the server's end"))),
            },
        }
    }
}

fn blocked_or_ended(kind: ErrorKind, when: &str) -> Next {
    if kind == ErrorKind::WouldBlock {
        Next::Wait
    } else {
        Next::EndedEarly(format!("{kind} {when}"))
    }
}

impl Client for Script {
    fn ready(&mut self, connection: &mut SimClient, now: Time) -> Result<Next, String> {
        loop {
            if let Some(next) = self.go_on(connection, now)? {
                return Ok(next);
            }
            self.steps.pop_front();
            self.done = 0;
        }
    }

    fn waits_for(&self) -> String {
        match self.steps.front() {
            Some(Step::Expect(bytes)) => format!("byte {} of {}", self.done, bytes.len()),
            Some(Step::Send(bytes)) => {
                format!("capacity for byte {} of {}", self.done, bytes.len())
            }
            Some(step) => format!("{step:?}"),
            None => "nothing".to_owned(),
        }
    }
}
