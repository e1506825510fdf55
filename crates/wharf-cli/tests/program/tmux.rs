//! The live statistics on a terminal that is made narrower, and beside other programs: in tmux, which
//! breaks lines anew as most terminals do, and with a shell that controls jobs.

use super::common::{PATIENCE, WHARF, installed, wait_until};
use std::process::Command;
use std::time::{Duration, Instant};

/// A terminal with a shell. Dropped, it is closed.
struct Tmux {
    socket: String,
}

impl Tmux {
    /// `None`, with the reason printed, if there is no tmux.
    fn start(name: &str) -> Option<Self> {
        if !installed("tmux", "-V") || !installed("bash", "--version") {
            return None;
        }
        let tmux = Self { socket: format!("wharf-{}-{name}", std::process::id()) };
        let shell = "env -i PATH=\"$PATH\" TERM=screen LC_ALL=C.UTF-8 PS1='shell> ' \
                     bash --norc --noprofile";
        tmux.run(&["-f", "/dev/null", "new-session", "-d", "-x", "100", "-y", "30", shell]);
        tmux.run(&["set-option", "-g", "status", "off"]);
        tmux.wait_for("a prompt", |text| text == "shell>\n");
        Some(tmux)
    }

    fn run(&self, words: &[&str]) -> String {
        let output = Command::new("tmux").args(["-L", &self.socket]).args(words).output();
        let output = output.expect("installed");
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Types a line.
    fn enter(&self, line: &str) {
        self.run(&["send-keys", "-l", line]);
        self.run(&["send-keys", "Enter"]);
    }

    fn press(&self, key: &str) {
        self.run(&["send-keys", key]);
    }

    /// What stands on the screen and above.
    fn text(&self) -> String {
        self.capture(&["-S", "-"])
    }

    /// What stands on the screen. What a narrower terminal has moved above it cannot be taken away.
    fn screen(&self) -> String {
        self.capture(&[])
    }

    fn capture(&self, part: &[&str]) -> String {
        let text = self.run(&[&["capture-pane", "-p", "-J"], part].concat());
        let rows: Vec<&str> = text.lines().map(str::trim_end).collect();
        rows.join("\n").trim_end().to_owned() + "\n"
    }

    #[track_caller]
    fn wait_for(&self, what: &str, is_shown: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = self.text();
            if is_shown(&text) {
                return text;
            }
            assert!(Instant::now() < deadline, "not {what}:\n{text}");
            wait_until(Instant::now() + Duration::from_millis(20));
        }
    }

    /// Waits until the statistics have been drawn a few times more.
    fn look_on(&self) -> String {
        let seconds = |text: &str| {
            let up = text.lines().rev().find_map(|line| line.strip_prefix(" up "))?;
            up.split(' ').next()?.parse::<u32>().ok()
        };
        let first = seconds(&self.text());
        self.wait_for("a second later", |text| seconds(text) > first)
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ended = Command::new("tmux").args(["-L", &self.socket, "kill-server"]).output();
    }
}

fn serve() -> String {
    format!("{WHARF} serve --backend epoll --listen 127.0.0.1:0 --shards 2")
}

/// How many blocks are to be seen.
fn blocks(text: &str) -> usize {
    text.lines().filter(|line| line.starts_with(" links ")).count()
}

#[test]
fn a_terminal_made_narrower_keeps_no_stale_lines() {
    let Some(tmux) = Tmux::start("narrower") else { return };
    tmux.enter(&serve());
    let before = tmux.wait_for("statistics", |text| blocks(text) == 1);
    assert!(before.contains(" try: "), "{before}");
    for columns in ["60", "40", "90", "33"] {
        tmux.run(&["resize-window", "-x", columns]);
        // Nor does it take what stands above.
        let all = tmux.look_on();
        assert!(all.contains("Ctrl-C drains and stops\n"), "{columns} columns:\n{all}");
        let text = tmux.screen();
        for part in [" links ", " worker 0", " worker 1", " total: ", " up "] {
            assert_eq!(text.matches(&format!("\n{part}")).count(), 1, "{columns} columns:\n{text}");
        }
    }
    tmux.press("C-c");
    tmux.wait_for("its end", |text| text.ends_with("\nshell>\n"));
    let text = tmux.screen();
    assert_eq!(blocks(&text), 0, "{text}");
}

#[test]
fn in_the_background_it_draws_nothing() {
    let Some(tmux) = Tmux::start("background") else { return };
    tmux.enter(&format!("{} --stats 10ms &", serve()));
    tmux.wait_for("its log", |text| text.contains(" try: "));
    tmux.enter("echo my own words");
    tmux.enter("sleep 1; echo and more");
    let text = tmux.wait_for("its echo", |text| text.contains("\nand more\n"));
    assert!(blocks(&text) == 0 && text.contains("\nmy own words\n"), "{text}");
    tmux.enter("fg");
    tmux.wait_for("statistics", |text| blocks(text) == 1);
    let text = tmux.look_on();
    assert!(blocks(&text) == 1 && text.contains("\nand more\n"), "{text}");
    tmux.press("C-c");
    let text = tmux.wait_for("its end", |text| text.ends_with("\nshell>\n") && blocks(text) == 0);
    assert!(text.contains("\nmy own words\n") && text.contains("\nand more\n"), "{text}");
}

#[test]
fn after_a_stop_it_begins_a_new_block() {
    let Some(tmux) = Tmux::start("stop") else { return };
    tmux.enter(&serve());
    tmux.wait_for("statistics", |text| blocks(text) == 1);
    tmux.press("C-z");
    tmux.wait_for("a prompt", |text| text.ends_with("\nshell>\n"));
    tmux.enter("echo my own words");
    tmux.wait_for("its echo", |text| text.contains("\nmy own words\n"));
    tmux.enter("fg");
    tmux.wait_for("a new block", |text| blocks(text) == 2);
    let text = tmux.look_on();
    assert!(blocks(&text) == 2 && text.contains("\nmy own words\n"), "{text}");
    // Stopped and continued by others it is still in the foreground.
    tmux.press("C-c");
    let text = tmux.wait_for("its end", |text| text.ends_with("\nshell>\n") && blocks(text) == 1);
    assert!(text.contains("\nmy own words\n"), "{text}");
}
