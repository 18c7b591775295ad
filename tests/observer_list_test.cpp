// tests/observer_list_test.cpp - who is asked and told in which order, what a refusal undoes, and
// who comes or goes meanwhile (observer/observer_list.hpp). Without a heap.
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "observer/observer_list.hpp"

namespace annex {
namespace {

using namespace std::chrono_literals;
using time_point = std::chrono::steady_clock::time_point;
using lines = std::vector<std::string>;

struct observer_lists : testing::Test {
  observer_list list;
  lines log;
  const region_view region{.region = region_id{7}, .length_bytes = 4096, .runs = {}};

  struct recorder : observer {
    recorder(observer_lists* whose, std::string own) : test(whose), name_(std::move(own)) {}
    std::string_view name() const noexcept override { return name_; }
    result<void> on_add(const region_view& r) override {
      return note("add", r, during_add, refuses_to_add);
    }
    quiesce begin_remove(const region_view& r) override {
      (void)note("begin", r, during_begin, false);
      return quiesce::pending;
    }
    result<void> finish_remove(const region_view& r, time_point deadline) override {
      told_deadline = deadline;
      return note("finish", r, during_finish, refuses_to_finish);
    }
    result<void> note(const char* what, const region_view& r,
                      const std::function<void()>& meanwhile, bool refuses) {
      EXPECT_EQ(static_cast<u32>(r.region), 7u);
      EXPECT_TRUE(is_inside_callback());
      test->log.push_back(std::string(what) + " " + name_);
      if (meanwhile) meanwhile();
      EXPECT_TRUE(is_inside_callback());
      if (refuses) return std::unexpected(error{errc::os_failure, 5, "the device is full"});
      return {};
    }
    observer_lists* test;
    std::string name_;
    bool refuses_to_add = false, refuses_to_finish = false;
    std::function<void()> during_add, during_begin, during_finish;
    time_point told_deadline{};
  };
  recorder a{this, "a"}, b{this, "b"}, c{this, "c"};
  const time_point deadline = std::chrono::steady_clock::now() + 5s;

  lines take_log() { return std::exchange(log, {}); }
};

TEST_F(observer_lists, of_nobody_agree_and_let_go) {
  EXPECT_TRUE(list.empty());
  EXPECT_TRUE(list.agree(region));
  EXPECT_TRUE(list.let_go(region, deadline));
  list.append(&a);
  EXPECT_FALSE(list.empty());
  list.erase(&b);  // who never came
  EXPECT_FALSE(list.empty());
  list.erase(&a);
  EXPECT_TRUE(list.empty());
}

TEST_F(observer_lists, ask_in_order_and_tell_in_reverse_all_begin_before_any_finishes) {
  for (recorder* who : {&a, &b, &c})
    list.append(who);
  EXPECT_TRUE(list.agree(region));
  EXPECT_EQ(take_log(), (lines{"add a", "add b", "add c"}));
  EXPECT_TRUE(list.let_go(region, deadline));
  EXPECT_EQ(take_log(),
            (lines{"begin c", "begin b", "begin a", "finish c", "finish b", "finish a"}));
  for (const recorder* who : {&a, &b, &c})
    EXPECT_EQ(who->told_deadline, deadline);
  EXPECT_FALSE(is_inside_callback());
}

TEST_F(observer_lists, undo_in_reverse_what_was_agreed_before_a_refusal) {
  for (recorder* who : {&a, &b, &c})
    list.append(who);
  c.refuses_to_add = true;
  const time_point before = std::chrono::steady_clock::now();
  const auto refused = list.agree(region);
  const time_point after = std::chrono::steady_clock::now();
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, errc::vetoed);
  EXPECT_EQ(refused.error().os_errno, 5);
  for (const char* part : {"\"c\"", "region 7", "4096", "the device is full"})
    EXPECT_NE(refused.error().message().find(part), std::string_view::npos) << part;
  EXPECT_EQ(take_log(),
            (lines{"add a", "add b", "add c", "begin b", "finish b", "begin a", "finish a"}))
      << "the one that refused is not told to let go of what it never had";
  EXPECT_GE(a.told_deadline, before + detach_time);
  EXPECT_LE(a.told_deadline, after + detach_time);
  // The first one that refuses ends it.
  a.refuses_to_add = true;
  EXPECT_FALSE(list.agree(region));
  EXPECT_EQ(take_log(), lines{"add a"});
  EXPECT_FALSE(is_inside_callback());
}

TEST_F(observer_lists, undo_all_though_one_does_not_let_go) {
  for (recorder* who : {&a, &b, &c})
    list.append(who);
  c.refuses_to_add = b.refuses_to_finish = true;
  const auto refused = list.agree(region);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, errc::vetoed) << "the refusal, not what came after it";
  EXPECT_EQ(take_log(),
            (lines{"add a", "add b", "add c", "begin b", "finish b", "begin a", "finish a"}));
}

TEST_F(observer_lists, name_the_one_that_did_not_let_go_in_time_and_may_be_told_again) {
  for (recorder* who : {&a, &b, &c})
    list.append(who);
  b.refuses_to_finish = true;
  const auto late = list.let_go(region, deadline);
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().code, errc::deadline_passed);
  EXPECT_EQ(late.error().os_errno, 5);
  EXPECT_NE(late.error().message().find("\"b\""), std::string_view::npos);
  EXPECT_EQ(take_log(), (lines{"begin c", "begin b", "begin a", "finish c", "finish b"}))
      << "those behind it have let go, those before it were not asked yet";
  b.refuses_to_finish = false;
  EXPECT_TRUE(list.let_go(region, deadline));
  EXPECT_EQ(take_log(),
            (lines{"begin c", "begin b", "begin a", "finish c", "finish b", "finish a"}));
}

TEST_F(observer_lists, are_as_they_were_at_the_beginning_for_as_long_as_it_takes) {
  recorder late(this, "late");
  list.append(&a);
  list.append(&b);
  // Callbacks may change the list: nobody holds its lock meanwhile.
  a.during_add = [&] {
    list.erase(&b);
    list.append(&late);
  };
  EXPECT_TRUE(list.agree(region));
  EXPECT_EQ(take_log(), (lines{"add a", "add b"}))
      << "who left meanwhile is asked, who came is not";
  a.during_add = nullptr;
  EXPECT_TRUE(list.agree(region));
  EXPECT_EQ(take_log(), (lines{"add a", "add late"}));
  late.during_begin = [&] { list.erase(&late); };
  EXPECT_TRUE(list.let_go(region, deadline));
  EXPECT_EQ(take_log(), (lines{"begin late", "begin a", "finish late", "finish a"}))
      << "who has begun finishes";
  EXPECT_TRUE(list.let_go(region, deadline));
  EXPECT_EQ(take_log(), (lines{"begin a", "finish a"}));
}

TEST_F(observer_lists, undo_those_that_agreed_though_they_left_meanwhile) {
  list.append(&a);
  list.append(&b);
  b.refuses_to_add = true;
  b.during_add = [&] { list.erase(&a); };
  EXPECT_FALSE(list.agree(region));
  EXPECT_EQ(take_log(), (lines{"add a", "add b", "begin a", "finish a"}));
}

TEST_F(observer_lists, may_be_used_within_a_callback_and_by_others_at_the_same_time) {
  recorder inner(this, "inner");
  observer_list other;
  other.append(&inner);
  list.append(&a);
  a.during_add = [&] {
    EXPECT_TRUE(other.agree(region));
    EXPECT_TRUE(is_inside_callback()) << "still in the outer one";
    std::thread([&] {
      EXPECT_FALSE(is_inside_callback()) << "of this thread, not of every one";
      EXPECT_FALSE(list.empty());
      list.append(&b);
    }).join();
  };
  EXPECT_TRUE(list.agree(region));
  EXPECT_EQ(take_log(), (lines{"add a", "add inner"}));
  EXPECT_FALSE(is_inside_callback());
}

TEST_F(observer_lists, ask_and_dismiss_one_alone) {
  EXPECT_TRUE(observer_list::ask(a, region));
  EXPECT_TRUE(observer_list::dismiss(a, region, deadline));
  EXPECT_EQ(take_log(), (lines{"add a", "begin a", "finish a"}));
  EXPECT_EQ(a.told_deadline, deadline);
  a.refuses_to_finish = true;
  const auto late = observer_list::dismiss(a, region, deadline);
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().code, errc::deadline_passed);
  EXPECT_NE(late.error().message().find("\"a\" has not let go of region 7"),
            std::string_view::npos);
}

}  // namespace
}  // namespace annex
