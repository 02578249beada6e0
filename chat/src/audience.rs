//! For whom a run of frames is: who reads a room in the same form, and is of the same class.

use banter_protocol::wire::WireForm;

/// A class of readers of a room, as a core numbers those that it has readers of; the program of the room names them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Class(u8);

impl Class {
    /// Of no class: shown what messages say without any view.
    pub const NONE: Class = Class(0);

    /// The class that has that place in its room's list.
    pub(crate) fn at(place: usize) -> Self {
        Class(u8::try_from(place + 1).unwrap_or(0))
    }

    /// The place in its room's list; none: of no class.
    pub(crate) fn place(self) -> Option<usize> {
        usize::from(self.0).checked_sub(1)
    }
}

/// Readers that are sent the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Audience {
    /// How frames are written for them.
    pub form: WireForm,
    /// Which views they are shown.
    pub class: Class,
}

/// Something of each audience of a room.
#[derive(Clone, Debug, Default)]
pub(crate) struct ByAudience<T> {
    plain: [T; WireForm::ALL.len()],
    /// By their places: empty in a room without classes, and takes no memory then.
    classes: Vec<[T; WireForm::ALL.len()]>,
}

impl<T: Copy + Default> ByAudience<T> {
    /// That of the audience; the default, where it was not set.
    pub(crate) fn get(&self, audience: Audience) -> T {
        let of_forms = match audience.class.place() {
            None => Some(&self.plain),
            Some(place) => self.classes.get(place),
        };
        of_forms.map(|of_forms| of_forms[audience.form.index()]).unwrap_or_default()
    }

    pub(crate) fn set(&mut self, audience: Audience, value: T) {
        let of_forms = match audience.class.place() {
            None => &mut self.plain,
            Some(place) => {
                if place >= self.classes.len() {
                    self.classes.resize(place + 1, Default::default());
                }
                &mut self.classes[place]
            }
        };
        of_forms[audience.form.index()] = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_audience_has_its_own() {
        let mut positions = ByAudience::<u64>::default();
        let of = |form, class| Audience { form, class };
        assert!(positions.classes.capacity() == 0 && Class::at(usize::MAX - 1) == Class::NONE);
        positions.set(of(WireForm::Json, Class::NONE), 1);
        positions.set(of(WireForm::Json, Class::at(1)), 2);
        positions.set(of(WireForm::Native, Class::at(1)), 3);
        let got = [Class::NONE, Class::at(0), Class::at(1), Class::at(2)]
            .map(|class| [WireForm::Json, WireForm::Native].map(|form| positions.get(of(form, class))));
        assert_eq!(got, [[1, 0], [0, 0], [2, 3], [0, 0]]);
    }
}
