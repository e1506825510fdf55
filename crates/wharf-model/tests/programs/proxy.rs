//! A TCP proxy: each client gets a link of its own to the server behind. No byte is copied; a side that does
//! not read stops the other, and only in that direction; each half ends by itself.

use crate::common::{is_over, small};
use wharf_model::{Client, Model};
use wharf_model::{DisconnectReason, Handler, Input, Link, Origin, Result, Rng, Verdict};

struct Proxy;

impl Handler for Proxy {
    fn on_connect(&self, link: &mut Link<'_>) -> Result {
        if link.origin() == Origin::Accepted {
            link.connect();
        }
        Ok(())
    }

    fn on_receive(&self, link: &mut Link<'_>, input: &mut Input<'_>) -> Result {
        input.forward(&mut link.partner());
        Ok(())
    }

    fn on_end(&self, link: &mut Link<'_>, _: &mut Input<'_>) -> Result<Verdict> {
        link.partner().finish();
        Ok(Verdict::Keep)
    }

    fn on_partner_gone(&self, link: &mut Link<'_>, reason: DisconnectReason) -> Result<Verdict> {
        if reason != DisconnectReason::PeerClosed {
            link.abort();
        }
        Ok(Verdict::Close)
    }
}

pub(crate) fn run(seeds: u64) {
    for seed in 1..=seeds {
        let mut rng = Rng::new(seed);
        let settings = small(&mut rng);
        let mut model = Model::new(Proxy, settings);
        let link = model.connect();
        let partner = model.link(link).partner.unwrap();
        let texts = [rng.letters(6_000), rng.letters(6_000)];
        let mut clients =
            [Client::new(link, &*texts[0], true), Client::new(partner, &*texts[1], true)];
        clients[0].reads_last = seed % 2 == 0;
        wharf_model::run(&mut model, &mut clients, &mut rng);
        for (client, text) in clients.iter().zip(texts.iter().rev()) {
            let view = model.link(client.link);
            let (heard, len) = (client.heard.len(), text.len());
            assert!(client.heard == *text, "seed {seed}: heard {heard} of {len}; {view:?}");
            assert!(is_over(view.end), "seed {seed}: {view:?}");
        }
    }
}
