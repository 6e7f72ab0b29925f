// The queue and its order; see fair_queue.h for the rules.
#include "engine/fair_queue.h"

#include <tuple>

namespace rwkv {

namespace {

int kind_of(const Sequence &sequence) { return sequence.embeds() ? 1 : 0; }

}  // namespace

void FairQueue::add(Sequence &sequence) {
    const Request &request = sequence.request;
    const uint64_t arrival = ++turn_;
    const auto [client, new_client] = clients_.try_emplace(request.client);
    if (new_client) client->second.turn = arrival;
    const bool single = request.group == 0;
    const GroupKey key{request.client, single, single ? arrival : request.group};
    const auto [found, new_group] = groups_.try_emplace(key);
    Group &group = found->second;
    if (new_group) group.turn = arrival, group.key = key, group.client = &client->second;
    ++group.client->members, ++group.members;
    const int kind = kind_of(sequence);
    std::list<Waiter> &line = group.lines[kind];
    line.push_back({&sequence, &group, arrival});
    waiters_.emplace(&sequence, std::prev(line.end()));
    chats_ += kind == 0;
    put_back(group);
}

// The first group of the first client for whom such requests wait, and that may have a slot.
Group *FairQueue::best(int kind, bool full) const {
    for (const Client *client : lines_[kind]) {
        Group *const group = *client->lines[kind].begin();
        if (!full || (rich_clients_ > 0 && client->held == 0) ||
            (rich_groups_ > 0 && group->held == 0))
            return group;
    }
    return nullptr;
}

Waiter FairQueue::take(const Room &room) {
    Group *const chat = best(0, room.full && !room.chats_may);
    Group *const text = best(1, room.full);
    if (!chat && !text) return {};
    const auto rank = [](const Group &group, int kind) {
        return std::tuple(group.client->held, group.client->turn, group.held, group.turn,
                          group.lines[kind].front().arrival);
    };
    const bool is_text = !chat || (text && !room.texts_last && rank(*text, 1) < rank(*chat, 0));
    Group &group = is_text ? *text : *chat;
    const Waiter waiter = group.lines[is_text].front();
    take_out(group);
    group.lines[is_text].pop_front();
    waiters_.erase(waiter.sequence);
    chats_ -= !is_text;
    set_held(group, 1);
    group.client->turn = group.turn = ++turn_;
    put_back(group);
    return waiter;
}

bool FairQueue::drop(const Sequence &sequence) {
    const auto found = waiters_.find(&sequence);
    if (found == waiters_.end()) return false;
    const auto waiter = found->second;
    Group &group = *waiter->group;
    const int kind = kind_of(sequence);
    take_out(group);
    group.lines[kind].erase(waiter);
    waiters_.erase(found);
    chats_ -= kind == 0;
    forget(group);
    return true;
}

void FairQueue::release(Group &group) {
    take_out(group);
    set_held(group, -1);
    forget(group);
}

void FairQueue::set_held(Group &group, int64_t change) {
    const auto adjust = [change](Party &party, int64_t &rich) {
        rich -= party.held > 1;
        party.held += change;
        rich += party.held > 1;
    };
    adjust(*group.client, rich_clients_);
    adjust(group, rich_groups_);
}

// Nothing that the order looks at may change while a group and its client stand in line.
void FairQueue::take_out(Group &group) {
    Client &client = *group.client;
    for (const int kind : {0, 1}) {
        if (!client.lines[kind].empty()) lines_[kind].erase(&client);
        if (!group.lines[kind].empty()) client.lines[kind].erase(&group);
    }
}

void FairQueue::put_back(Group &group) {
    Client &client = *group.client;
    for (const int kind : {0, 1}) {
        if (!group.lines[kind].empty()) client.lines[kind].insert(&group);
        if (!client.lines[kind].empty()) lines_[kind].insert(&client);
    }
}

// One of its sequences has left: back in line, or gone. Parties are known as long as they have
// something here.
void FairQueue::forget(Group &group) {
    Client &client = *group.client;
    const uint64_t number = group.key.client;
    put_back(group);
    if (--group.members == 0) groups_.erase(GroupKey(group.key));
    if (--client.members == 0) clients_.erase(number);
}

}  // namespace rwkv
