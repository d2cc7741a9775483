//! What is decided about a diverted file: every combination of what can be found of it.

use pve_tunnel_cli::activation::{
    Diversion, Found, Kept, Part, Place, Refusal, Step, Wanted, plan,
};
use std::path::PathBuf;

fn found(place: Place, kept: Kept, diversion: Diversion) -> Found {
    Found {
        place,
        kept,
        diversion,
        unfinished: false,
        stand_in: true,
    }
}

fn foreign(by: &str) -> Diversion {
    Diversion::Foreign {
        by: by.to_owned(),
        to: "/elsewhere".to_owned(),
    }
}

#[test]
fn each_state_of_an_undisturbed_or_interrupted_run_has_its_steps() {
    use Diversion::{None, Ours};
    use Kept::{Different, Missing, Same};
    use Place::{File, StandIn};
    use Step::{Divert, DropKept, Keep, Link, Restore, Undivert, Unlink};
    let missing = Place::Missing;
    #[rustfmt::skip] // One row a line.
    let table: [(&str, Found, &[Step], &[Step]); 13] = [
        ("off", found(File, Missing, None), &[Divert, Keep, Link], &[]),
        ("kept", found(File, Same, None), &[Divert, Link], &[DropKept]),
        ("kept, diverted", found(File, Same, Ours), &[Link], &[DropKept, Undivert]),
        ("kept, diverted, upgraded", found(File, Different, Ours), &[Link], &[Restore, Undivert]),
        ("on", found(StandIn, Different, Ours), &[], &[Restore, Undivert]),
        ("diverted, or restored", found(File, Missing, Ours), &[Keep, Link], &[Undivert]),
        ("the diversion was removed by hand", found(StandIn, Different, None), &[Divert], &[Restore]),
        ("the link was removed by hand", found(missing.clone(), Different, Ours), &[Link], &[Restore, Undivert]),
        // Where on is refused, no steps are listed.
        ("stock removed", found(StandIn, Missing, Ours), &[], &[Unlink, Undivert]),
        ("stock removed, diversion too", found(StandIn, Missing, None), &[], &[Unlink]),
        ("stock removed, link too", found(missing.clone(), Missing, Ours), &[], &[Undivert]),
        ("never installed", found(missing.clone(), Missing, None), &[], &[]),
        ("stray", found(File, Different, None), &[], &[]),
    ];
    for (name, found, on, off) in table {
        assert_eq!(
            plan(Part::Overlay, &found, Wanted::On).unwrap_or_default(),
            on,
            "{name}, on"
        );
        assert_eq!(
            plan(Part::Overlay, &found, Wanted::Off),
            Ok(off.to_vec()),
            "{name}, off"
        );
    }
}

#[test]
fn what_cannot_be_switched_on_is_refused_with_its_reason() {
    let link = Place::Link(PathBuf::from("/opt/Tunnel.pm"));
    #[rustfmt::skip] // One row a line.
    let table = [
        ("another's diversion", found(Place::File, Kept::Missing, foreign("other")), "/elsewhere for the package other"),
        ("a local diversion", found(Place::File, Kept::Missing, foreign("LOCAL")), "for the local administrator"),
        ("ours by name, to another place", found(Place::File, Kept::Missing, foreign("pve-tunnel")), "/elsewhere"),
        ("another's link", found(link, Kept::Missing, Diversion::None), "symbolic link to '/opt/Tunnel.pm'"),
        ("a directory", found(Place::Other, Kept::Missing, Diversion::None), "is not a file"),
        ("a stray file", found(Place::File, Kept::Different, Diversion::None), "is not diverted"),
        ("a stray file alone", found(Place::Missing, Kept::Different, Diversion::None), "is not diverted"),
        ("a directory beside it", found(Place::File, Kept::Other, Diversion::None), ".distrib is not a regular file"),
        ("not installed", found(Place::Missing, Kept::Missing, Diversion::None), "libpve-guest-common-perl is not installed"),
        ("removed meanwhile", found(Place::StandIn, Kept::Missing, Diversion::Ours), "'pve-tunnel disable' removes"),
        ("no stand-in", Found { stand_in: false, ..found(Place::File, Kept::Missing, Diversion::None) }, "perl5/PVE/Tunnel.pm is missing"),
        ("no stand-in any more", Found { stand_in: false, ..found(Place::StandIn, Kept::Different, Diversion::Ours) }, "perl5/PVE/Tunnel.pm is missing"),
    ];
    for (name, found, expected) in table {
        let refusal = plan(Part::Overlay, &found, Wanted::On)
            .unwrap_err()
            .to_string();
        assert!(refusal.contains(expected), "{name}: {refusal}");
    }
}

#[test]
fn what_is_off_is_left_alone_whatever_else_is_there() {
    for place in places()
        .into_iter()
        .filter(|place| *place != Place::StandIn)
    {
        for diversion in [Diversion::None, foreign("other")] {
            for kept in [Kept::Missing, Kept::Different, Kept::Other] {
                let found = found(place.clone(), kept, diversion.clone());
                let steps = plan(Part::Seam, &found, Wanted::Off);
                assert_eq!(steps, Ok(Vec::new()), "{found:?}");
            }
        }
    }
}

#[test]
fn an_own_diversion_of_another_s_file_is_not_undone_by_guessing() {
    let link = Place::Link(PathBuf::from("/opt/Tunnel.pm"));
    for place in [link, Place::Other] {
        let found = found(place, Kept::Different, Diversion::Ours);
        assert!(
            matches!(
                plan(Part::Overlay, &found, Wanted::Off),
                Err(Refusal::Link { .. } | Refusal::NoPlace { .. })
            ),
            "{found:?}"
        );
    }
    let found = found(Place::StandIn, Kept::Different, foreign("other"));
    assert!(matches!(
        plan(Part::Overlay, &found, Wanted::Off),
        Err(Refusal::Diverted { .. })
    ));
}

/// Whatever steps are planned lead to what is wanted, never over a path without a file, and, cut
/// off after any of them, to a state from which every way is open that was open before.
#[test]
fn every_plan_leads_where_it_should_and_can_be_cut_off_anywhere() {
    let mut plans = 0;
    for start in every_state() {
        for wanted in [Wanted::On, Wanted::Off] {
            let Ok(steps) = plan(Part::Helper, &start, wanted) else {
                continue;
            };
            plans += 1;
            let mut now = start.clone();
            for step in &steps {
                let had_file = now.place != Place::Missing;
                let has_stock = stock_is_there(&now);
                now = after(now, *step);
                assert!(
                    !had_file || !has_stock || now.place != Place::Missing,
                    "{step:?} of {steps:?} takes the file away from {start:?}"
                );
                assert_eq!(
                    stock_is_there(&now),
                    has_stock,
                    "{step:?} of {steps:?} loses the stock file of {start:?}"
                );
                for way in [Wanted::On, Wanted::Off] {
                    assert!(
                        plan(Part::Helper, &start, way).is_err()
                            || plan(Part::Helper, &now, way).is_ok(),
                        "{steps:?} from {start:?}, cut off after {step:?}, cannot go {way:?}"
                    );
                }
            }
            let there = match wanted {
                Wanted::On => now.is_on(),
                Wanted::Off => now.is_off(),
            };
            assert!(there, "{steps:?} lead from {start:?} to {now:?}");
            assert!(!now.unfinished, "{steps:?} leave something behind");
            assert_eq!(
                plan(Part::Helper, &now, wanted),
                Ok(Vec::new()),
                "twice from {start:?}"
            );
        }
    }
    assert!(plans > 40, "{plans} plans");
}

fn places() -> [Place; 5] {
    let link = Place::Link(PathBuf::from("/opt/x"));
    [
        Place::Missing,
        Place::File,
        Place::StandIn,
        link,
        Place::Other,
    ]
}

fn every_state() -> Vec<Found> {
    let mut states = Vec::new();
    for place in places() {
        for kept in [Kept::Missing, Kept::Same, Kept::Different, Kept::Other] {
            // Only a file can have another name.
            if kept == Kept::Same && place != Place::File {
                continue;
            }
            for diversion in [Diversion::None, Diversion::Ours, foreign("other")] {
                for unfinished in [false, true] {
                    states.push(Found {
                        unfinished,
                        ..found(place.clone(), kept, diversion.clone())
                    });
                }
            }
        }
    }
    states
}

fn stock_is_there(found: &Found) -> bool {
    found.place == Place::File || matches!(found.kept, Kept::Same | Kept::Different)
}

/// What each step does to the files.
fn after(mut now: Found, step: Step) -> Found {
    match step {
        Step::Sweep => now.unfinished = false,
        Step::Keep => now.kept = Kept::Same,
        Step::Divert => now.diversion = Diversion::Ours,
        Step::Undivert => now.diversion = Diversion::None,
        Step::Link => {
            now.place = Place::StandIn;
            now.kept = Kept::Different;
        }
        // A rename between two names of one file leaves both.
        Step::Restore if now.kept == Kept::Same => {}
        Step::Restore => {
            now.place = Place::File;
            now.kept = Kept::Missing;
        }
        Step::DropKept => now.kept = Kept::Missing,
        Step::Unlink => now.place = Place::Missing,
    }
    now
}
