//! The client of chat: it checks the senders and the order of the lines.

use crate::chat::{FAREWELL, Tally, is_strict, number};
use crate::plan::{Plan, pattern_byte};
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use wharf::sim::{Client, Next, Rng, SimClient, Time};

#[derive(Debug)]
pub(crate) struct ChatClient {
    number: usize,
    script: Vec<u8>,
    written: usize,
    /// The earliest time of the next write.
    writes_at: Time,
    pace: Duration,
    /// The received part of the next line.
    line: Vec<u8>,
    /// The last line of each client that arrived, plus one.
    heard: Vec<u32>,
    /// Lines for all of each client before its last line for this one.
    before: Vec<u32>,
    /// Replies that arrived, and posts to itself.
    replies: [u32; 2],
    farewell: bool,
    tally: Arc<Tally>,
}

impl ChatClient {
    pub(crate) fn new(plan: &Plan, number: usize, tally: Arc<Tally>) -> Self {
        let mut rng = Rng::new(plan.config.seed ^ (number as u64 + 1).wrapping_mul(0x51_7CC1));
        let mut script = Vec::new();
        let lines = 1 + rng.below(plan.text_max as u64 / 32 + 1).min(60);
        let (mut said, mut asked) = (0, 0);
        let mut kicked = None;
        for _ in 0..lines {
            let target = rng.below(u64::from(plan.clients));
            match rng.below(40) {
                0 => {
                    script.extend(format!("K{target}\n").bytes());
                    kicked = Some(target);
                }
                // Often a link that closes already.
                1 | 2 if kicked.is_some() => {
                    let target = kicked.take().unwrap_or(target);
                    script.extend(format!("A{target}\n").bytes());
                }
                1 => script.extend(format!("A{target}\n").bytes()),
                2..9 => script.extend(format!("W{target} {number} {said}\n").bytes()),
                9..12 => {
                    script.extend(format!("S{number} {asked}\n").bytes());
                    asked += 1;
                }
                _ => {
                    let longest = plan.message_max.min(plan.chat_line_max()).clamp(24, 200);
                    let padding = rng.below_len(longest - 20);
                    script.extend(line(number, said, padding));
                    said += 1;
                }
            }
        }
        script.extend(b"Q\n");
        Self {
            number,
            script,
            written: 0,
            writes_at: Time::default(),
            pace: Duration::from_nanos(rng.pick(&[0, 20_000, 1_000_000])),
            line: Vec::new(),
            heard: vec![0; plan.clients as usize],
            before: vec![0; plan.clients as usize],
            replies: [0; 2],
            farewell: false,
            tally,
        }
    }

    fn write(&mut self, connection: &mut SimClient, now: Time) -> Option<Time> {
        while self.written < self.script.len() {
            if self.writes_at > now {
                return Some(self.writes_at);
            }
            let rest = &self.script[self.written..];
            let end = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |at| at + 1);
            match connection.try_write(&rest[..end]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                // The bytes that were read show whether that is right.
                Err(_) => self.written = self.script.len(),
            }
            self.writes_at = now.saturating_add(self.pace);
        }
        None
    }

    fn check(&mut self, line_got: &[u8]) -> Result<(), String> {
        let text = || String::from_utf8_lossy(line_got).into_owned();
        let wrong = |why: &str| Err(format!("a line that {why}: {:?}", text()));
        if self.farewell {
            return wrong("comes after the farewell");
        }
        if line_got == FAREWELL {
            self.farewell = true;
            return Ok(());
        }
        let Some((kind, rest)) = line_got.split_first() else { return wrong("is empty") };
        let mut numbers = rest.split(|byte| *byte == b' ').map_while(number);
        let (Some(first), Some(second)) = (numbers.next(), numbers.next()) else {
            return wrong("has too few numbers");
        };
        let said = u32::try_from(second).unwrap_or(u32::MAX - 1);
        match kind {
            b'W' if first == self.number && second < self.heard.len() => {
                let before = numbers.next().and_then(|count| u32::try_from(count).ok());
                let Some(before) = before else { return wrong("has too few numbers") };
                if self.heard[second] > before || self.before[second] > before {
                    return wrong("comes too late");
                }
                self.before[second] = before;
                Ok(())
            }
            b'W' => wrong("is for another client"),
            b'R' if first == self.number && said == self.replies[0] => {
                self.replies[0] += 1;
                Ok(())
            }
            // A link may skip posts, but those that arrive are in order, each after its reply.
            b'S' if first == self.number && (self.replies[1]..self.replies[0]).contains(&said) => {
                self.replies[1] = said + 1;
                Ok(())
            }
            b'L' if first == self.number => wrong("is this client's own"),
            b'L' if first < self.heard.len() => {
                let head = format!("L{first} {said} ").len() + 1;
                if line(first, said, line_got.len().saturating_sub(head)) != line_got {
                    return wrong("is garbled");
                }
                let last = std::mem::replace(&mut self.heard[first], said + 1);
                if said < last || said < self.before[first] {
                    return wrong("is repeated or too late");
                }
                if last > 0 {
                    // A line from before its connect may have reached it, too.
                    let next = last.max(self.tally.first_for(self.number, first));
                    let gap = said.saturating_sub(next);
                    self.tally.gaps.fetch_add(u64::from(gap), Ordering::Relaxed);
                }
                self.tally.note_heard(self.number, (first, said));
                Ok(())
            }
            _ => wrong("no client has sent"),
        }
    }
}

impl Client for ChatClient {
    fn ready(&mut self, connection: &mut SimClient, now: Time) -> Result<Next, String> {
        let writes_at = self.write(connection, now);
        let mut buffer = [0; 4096];
        loop {
            let count = match connection.try_read(&mut buffer) {
                Ok(0) if self.farewell => return Ok(Next::Close),
                Ok(0) => return Ok(Next::EndedEarly("before the farewell".to_owned())),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Ok(writes_at.map_or(Next::Wait, Next::Sleep));
                }
                Err(_) => return Ok(Next::EndedEarly("by a reset".to_owned())),
            };
            for piece in buffer[..count].split_inclusive(|byte| *byte == b'\n') {
                self.line.extend_from_slice(piece);
                if piece.ends_with(b"\n") {
                    let line = std::mem::take(&mut self.line);
                    self.check(&line)?;
                }
            }
        }
    }

    fn lacks(&self, delivered: u64) -> u64 {
        let is_due = delivered >= self.script.len() as u64 && !self.farewell;
        if is_due { FAREWELL.len() as u64 } else { 0 }
    }

    fn is_kicked(&self) -> bool {
        is_strict(self.number) || self.tally.kicked[self.number].load(Ordering::Relaxed)
    }

    fn waits_for(&self) -> String {
        format!("a farewell (written {} of {})", self.written, self.script.len())
    }
}

/// The `said`th line for all of `client`.
fn line(client: usize, said: u32, padding: usize) -> Vec<u8> {
    let mut line = format!("L{client} {said} ").into_bytes();
    line.extend(
        (0..padding).map(|offset| b'a' + pattern_byte(client, offset + said as usize) % 26),
    );
    line.push(b'\n');
    line
}
