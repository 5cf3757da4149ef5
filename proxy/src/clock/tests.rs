//! The wheel against real, short times, and the generator.
use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::{Clock, Elapsed, Random, TICK, Timers};
use crate::codec::h1::tests::run;

#[test]
fn timers_fire_in_order_and_never_early() {
    run(async {
        let timers = Timers::new();
        let random = Random::seeded(3);
        let fired = Rc::new(RefCell::new(Vec::new()));
        let mut tasks = Vec::new();
        for _ in 0..300 {
            let delay = Duration::from_micros(random.below(700_000));
            let (sleep, fired, start) = (timers.after(delay), fired.clone(), Instant::now());
            tasks.push(tokio::task::spawn_local(async move {
                sleep.await;
                fired.borrow_mut().push((delay, start.elapsed()));
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        for (delay, took) in fired.borrow().iter() {
            assert!(took >= delay && *took < *delay + TICK * 25, "{delay:?} took {took:?}");
        }
        assert!(timers.is_empty());
    });
}

#[test]
fn dropped_and_moved_timers() {
    run(async {
        let timers = Timers::new();
        let start = Instant::now();
        let mut far = timers.after(Duration::from_secs(7200));
        assert!(timers.timeout(Duration::from_millis(1), &mut far).await == Err(Elapsed));
        assert_eq!(timers.len(), 1);
        far.reset(start + Duration::from_millis(30));
        assert_eq!(timers.len(), 0);
        far.await;
        assert!(start.elapsed() >= Duration::from_millis(30) && start.elapsed() < Duration::from_secs(2));
        let forever = timers.after(Duration::MAX);
        assert_eq!(timers.timeout(Duration::from_millis(20), forever).await, Err(Elapsed));
        assert_eq!(timers.timeout(Duration::from_secs(9), async { 5 }).await, Ok(5));
        assert!(timers.is_empty());
    });
}

#[test]
fn the_same_seed_gives_the_same_numbers() {
    let (one, two) = (Random::seeded(9), Random::seeded(9));
    let first: Vec<u64> = (0..100).map(|_| one.below(10)).collect();
    assert!(first.iter().all(|&n| n < 10) && (0..10).all(|n| first.contains(&n)));
    assert_eq!(first, (0..100).map(|_| two.below(10)).collect::<Vec<_>>());
    assert!((0..1000).all(|_| (0.0..1.0).contains(&one.fraction())));
    assert!(!one.chance(0, 100) && one.chance(100, 100));
    assert_eq!(one.below(0), 0);
}

#[test]
fn wall_time_moves_with_the_clock() {
    let wall = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    let clock = Clock::starting_at(wall);
    assert!(clock.system() >= wall && clock.system() < wall + Duration::from_secs(60));
    assert!(clock.now() >= clock.coarse());
}
