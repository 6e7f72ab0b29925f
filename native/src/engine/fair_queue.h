// Who waits for a slot, and who gets the next one: the queue of the scheduler, which alone calls
// it, on the engine's thread. It knows clients, their groups (requests that came together) and how
// many slots each holds; it knows no slot by its number, and no step.
//
// The next is of the client that holds the fewest slots, then of its group that holds the fewest;
// among equals it goes round, and within a group they come as they came. Each call costs the
// logarithm of how many wait: whoever sends half a million requests makes nobody's step longer.
#pragma once

#include "engine/sequence.h"

#include <compare>
#include <cstdint>
#include <list>
#include <map>
#include <set>
#include <unordered_map>

namespace rwkv {

struct Client;
struct Group;

struct Waiter {
    Sequence *sequence = nullptr;
    Group *group = nullptr;
    uint64_t arrival = 0;
};

// Who asks: a client, or one of its groups.
struct Party {
    int64_t held = 0, members = 0;  // slots; sequences with and without one
    uint64_t turn = 0;              // when it last got a slot, or came: no two have the same
};
struct Fewest {
    bool operator()(const Party *a, const Party *b) const {
        return a->held != b->held ? a->held < b->held : a->turn < b->turn;
    }
};
// By client and group, or by client and the arrival of a request that is its own group.
struct GroupKey {
    uint64_t client = 0;
    bool single = false;
    uint64_t number = 0;
    auto operator<=>(const GroupKey &) const = default;
};
struct Group : Party {
    GroupKey key;
    Client *client = nullptr;
    int64_t end = 0;             // the scheduler's: of the last prompt that it has begun to read
    std::list<Waiter> lines[2];  // chats, and texts to embed
};
struct Client : Party {
    std::set<Group *, Fewest> lines[2];  // those of its groups in which chats, or texts, wait
};

class FairQueue {
public:
    // What there is to give.
    struct Room {
        bool full = false;        // only for who holds nothing beside somebody who holds several,
        bool chats_may = false;   // and for chats, since texts hold too many
        bool texts_last = false;  // texts have theirs
    };

    // To the end of its line.
    void add(Sequence &sequence);
    // Takes out the next one, which holds a slot from here on; without a sequence: nobody may.
    Waiter take(const Room &room);
    // One that waits leaves; false: it does not wait.
    bool drop(const Sequence &sequence);
    // One that holds a slot leaves.
    void release(Group &group);

    bool empty() const { return waiters_.empty(); }
    int64_t size() const { return static_cast<int64_t>(waiters_.size()); }
    int64_t chats() const { return chats_; }  // of these

private:
    Group *best(int kind, bool full) const;
    void set_held(Group &group, int64_t change);
    void take_out(Group &group);
    void put_back(Group &group);
    void forget(Group &group);

    std::map<uint64_t, Client> clients_;
    std::map<GroupKey, Group> groups_;
    std::set<Client *, Fewest> lines_[2];  // those for whom chats, or texts, wait
    std::unordered_map<const Sequence *, std::list<Waiter>::iterator> waiters_;
    uint64_t turn_ = 0;  // arrivals and slots given so far
    int64_t chats_ = 0;
    int64_t rich_clients_ = 0, rich_groups_ = 0;  // that hold several slots
};

}  // namespace rwkv
