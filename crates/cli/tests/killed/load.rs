use std::thread::{self, JoinHandle};

use crate::kernel::random::Random;
use crate::killed::client::{Client, owns};
use crate::killed::sectors::Sectors;
use crate::serving::Place;

/// Two connections to each device, until the server is gone.
pub(crate) struct Load<'a> {
    devices: Vec<(&'a mut Sectors, [JoinHandle<Client>; 2])>,
}

impl<'a> Load<'a> {
    pub(crate) fn start(
        place: &Place,
        devices: Vec<(&str, &'a mut Sectors)>,
        random: &mut Random,
    ) -> Self {
        let devices = devices.into_iter().map(|(export, sectors)| {
            let threads = [0, 1].map(|share| {
                let socket = place.path("socket");
                let client = Client::new(&socket, export, share, sectors.clone(), random.fork());
                let mut client = client.unwrap_or_else(|error| panic!("{export}: {error}"));
                thread::spawn(move || {
                    client.run();
                    client
                })
            });
            (sectors, threads)
        });
        Self { devices: devices.collect() }
    }

    /// Once the server is gone: requests sent, and flushes that were answered.
    pub(crate) fn end(self) -> (u64, u64) {
        let (mut requests, mut flushes) = (0, 0);
        for (sectors, threads) in self.devices {
            for (share, thread) in threads.into_iter().enumerate() {
                let client = thread.join().expect("a client found what it must not");
                let count = sectors.count();
                sectors.take(&client.sectors, |sector| owns(share, sector, count));
                requests += client.requests;
                flushes += client.flushes;
            }
        }
        (requests, flushes)
    }
}
