//! Pushes to users by name: each push arrives or is counted, and a second login replaces the first.

use crate::common::{id_of, small};
use crate::handlers::push::Online;
use std::sync::Arc;
use wharf_model::{DisconnectReason, LinkEnd, Model, Rng, Settings};

pub(crate) fn run(seeds: u64) {
    for seed in 1..=seeds {
        let mut rng = Rng::new(seed);
        let online = Arc::new(Online::default());
        let settings = Settings { idle_timeout_ms: 50_000, ..small(&mut rng) };
        let mut model = Model::new(Arc::clone(&online), settings);
        let (first, second) = (model.connect(), model.connect());
        let (mut heard, mut posted) = (Vec::new(), 0);
        model.arrive(first, b"LOGIN ann\n");
        for turn in 0..60 {
            model.turn();
            let ann = online.users.lock().unwrap().get("ann").copied();
            if let Some(ann) = ann {
                model.server().link(ann).post(format_args!("PUSH {turn}\n"));
                posted += 1;
            }
            if rng.once_in(3) {
                let len = rng.below(200);
                heard.extend(model.leave(first, len));
            }
        }
        while model.turn() || model.link(first).unsent_bytes > 0 {
            heard.extend(model.leave(first, 9));
        }
        let text = String::from_utf8(heard).unwrap();
        let got = text.lines().filter(|line| line.starts_with("PUSH ")).count() as u64;
        let missed = model.server().stats().missed;
        assert!(text.starts_with("OK\n"), "seed {seed}");
        assert_eq!(got + missed, posted, "seed {seed}: each push comes or is counted");
        // A second login of the user: the first link is closed, and its end does not remove the new name.
        model.arrive(second, b"LOGIN ann\n");
        while model.turn() {
            model.leave(second, 99);
        }
        assert_eq!(model.link(first).end, LinkEnd::Over(DisconnectReason::Kicked));
        assert_eq!(model.link(second).end, LinkEnd::Open);
        assert_eq!(online.users.lock().unwrap().get("ann"), Some(&id_of(second)));
    }
}
